"""One file a group of sections; each section can be used alone."""
