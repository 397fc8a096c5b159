"""int8: settings, the quantizer, the search for settings."""
