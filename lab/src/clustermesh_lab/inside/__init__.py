"""Programs of the lab that run inside its nodes and control planes. Standard library only."""
