"""Training of the generator: batches, masks, losses, steps and validation."""
