"""What every training shares: averaged weights, precision, and when a training is lost."""
