"""Speed as it will be deployed: a table of blocks' times, and landing on a target."""
