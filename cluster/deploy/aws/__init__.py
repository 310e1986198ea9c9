"""IAM policies and the node provider for AWS."""
