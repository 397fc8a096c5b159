"""One file a stage: a function of the context, what is prepared, and results of earlier stages."""
