"""What `generate` makes: its options, recordings that are edited, and recipes from which a clip is made again."""
