"""What all studies share: the space, the runner, the journal of trials, and their results."""
