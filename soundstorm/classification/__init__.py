"""Classifiers of recordings: their networks, training and files, and how right they are."""
