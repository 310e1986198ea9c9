"""Training on workers of Ray Train: the run, its loops and its log."""
