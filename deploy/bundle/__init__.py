"""One file with everything that a machine without the internet needs to become a node."""
