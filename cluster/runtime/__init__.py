"""Connections to Ray, local or on a cluster, and its resources."""
