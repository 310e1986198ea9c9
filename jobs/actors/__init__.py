"""Ray actors of the jobs, and the sharded output that they write."""
