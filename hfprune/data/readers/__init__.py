"""One reader a format; all give the same kind of table."""
