"""Models that others can use."""
