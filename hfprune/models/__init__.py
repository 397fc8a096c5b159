"""A model on disk: loaded, refused, looked at, saved in the layouts that others read."""
