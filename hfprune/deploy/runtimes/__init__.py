"""What executes a deployed file."""
