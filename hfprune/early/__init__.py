"""What is known within two seconds: rows, a model's config, and the recipe they suggest."""
