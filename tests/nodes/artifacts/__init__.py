"""Tests of what a node does with models that are sent to it."""
