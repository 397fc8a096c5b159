"""Matrices in, matrices out: structured OBS and the refit of what stays."""
