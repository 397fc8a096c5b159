"""One level a block under a budget."""
