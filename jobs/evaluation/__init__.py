"""What `evaluate` compares and shows: sets of clips, their bands, and examples to listen to."""
