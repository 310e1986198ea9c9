"""The web page of the endpoint, for generating and editing sound in a browser."""
