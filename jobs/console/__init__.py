"""Start, end, options, progress and resuming of all commands."""
