"""Tests of what the gateway and its command line do with models."""
