"""Models that operators push: kept by content, shipped to nodes over the nodes' own streams. Never loaded here."""
