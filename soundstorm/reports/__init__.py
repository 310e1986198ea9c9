"""Pages with players and pictures, and the figures on them."""
