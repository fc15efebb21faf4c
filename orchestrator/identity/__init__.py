"""Who nodes are: the gateway's certificate authority, join tokens, and what watches over open streams."""
