"""The operator's calls of the client."""
