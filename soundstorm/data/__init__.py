"""Datasets: how they lie in folders, their clips, classes, views and what became of every file."""
