"""Puts an agent on another machine over ssh, and keeps it as it was asked for."""
