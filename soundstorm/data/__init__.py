"""Datasets: their layouts in folders, their clips and classes, augmented views, and an account of every file."""
