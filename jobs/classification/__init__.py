"""Training of each kind of classifier, and tables of predictions."""
