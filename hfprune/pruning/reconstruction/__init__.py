"""Pruning without training."""
