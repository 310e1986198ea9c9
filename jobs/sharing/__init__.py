"""Export of models for sharing."""
