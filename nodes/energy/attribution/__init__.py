"""Whose joules they were: pure functions over what was busy when, and what a sensor said about it."""
