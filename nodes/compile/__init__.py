"""Compiled forms of experts: made for this machine, checked against the model they came from, kept, and offered as arms."""
