"""Sound on demand: an endpoint and a page over replicas of the generator, on Ray Serve."""
