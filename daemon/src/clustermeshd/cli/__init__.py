"""Command lines: the daemon's (clustermeshd) and the people's (clustermesh)."""
