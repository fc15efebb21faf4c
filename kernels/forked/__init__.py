"""A small classifier with two sets of layers behind its first one, and a gate that chooses between them."""
