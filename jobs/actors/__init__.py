"""The actors behind the jobs, and the sharded output that they write."""
