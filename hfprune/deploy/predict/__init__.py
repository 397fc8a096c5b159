"""What the recommended file of a folder says of texts: labels with probabilities."""
