"""What people call from Python, on top of the stages that recipes run."""
