"""What both daemons owe the system that runs them: notify, health and metrics endpoints, logs."""
