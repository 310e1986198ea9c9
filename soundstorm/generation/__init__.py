"""Codes out of a trained network, and which of several draws to keep."""
