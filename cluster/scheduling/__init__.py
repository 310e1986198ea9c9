"""Work on many actors and workers in bounded time: actor pool, watchdog, attempt tracker and limits."""
