"""Options of `generate`, edits of recordings, and recipes that reproduce a clip."""
