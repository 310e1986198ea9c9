"""A decoding study: its reference, its trials, its search and its results."""
