"""A trial of a training study, in one process or on several workers."""
