"""Comparison of generated with real clips: acoustic metrics, embeddings, distances between distributions and
memorization of training clips."""
