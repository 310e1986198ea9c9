"""How each kind of classifier is trained, and the table of its predictions."""
