"""Files that are deployed: exported, rewritten, quantized, checked and run."""
