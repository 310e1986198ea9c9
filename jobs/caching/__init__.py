"""Caches of what later runs would compute again."""
