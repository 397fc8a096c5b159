"""Which tokens a task needs, and the tokenizer that knows only those."""
