"""Checks of the nodes of a cluster, and of the files that a submitted job sends."""
