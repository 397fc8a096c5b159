"""From files or data sets by name to checked, split and tokenized rows."""
