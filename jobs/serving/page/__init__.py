"""The page of the endpoint: sound made and edited by ear, in a browser."""
