"""Recipes: what they may say, read from YAML, with every problem told at once."""
