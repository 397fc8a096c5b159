"""What everything stands on: errors, files, the machine, tasks and metrics by name."""
