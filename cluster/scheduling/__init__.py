"""Work on many actors and workers with an end to every wait: pools, watchdogs, attempts and limits."""
