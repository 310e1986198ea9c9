"""What a job opens: datasets, recordings, tokens, codecs, checkpoints and classifiers."""
