"""Nodes that sleep: put to sleep and woken by hand, by plan, or because a request needs them."""
