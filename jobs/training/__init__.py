"""Training on workers of Ray Train: starting runs, training loops, logs."""
