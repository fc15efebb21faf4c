"""Who this node is: joining a gateway, its key and certificate, and why TLS fails where it does."""
