"""Models that a gateway sends: fetched, kept by content, checked before anything loads them, tried out in a cage."""
