"""Iterative decoding of codes with a trained network, and reranking of several candidates of a sample."""
