"""The nodes that are connected: their sessions, arms and leases."""
