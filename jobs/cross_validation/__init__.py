"""The folds of a cross-validation: planned, run side by side, summed up."""
