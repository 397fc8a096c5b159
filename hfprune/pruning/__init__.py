"""Plans, gates, importance, search and the physical removal."""
