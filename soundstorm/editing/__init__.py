"""New sound of any length and edits of recordings: in-painting, variations, loops."""
