"""Losses against the teacher, its cached outputs, and rows for it to label."""
