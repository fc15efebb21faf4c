"""Compiled forms of experts: made for this machine, checked against their model, kept, and offered as arms."""
