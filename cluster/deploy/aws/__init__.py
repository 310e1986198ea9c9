"""AWS: the policies of the nodes and Ray's provider of them."""
