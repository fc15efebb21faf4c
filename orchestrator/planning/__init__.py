"""Certified plans: learning from evidence and solving, off the event loop."""
