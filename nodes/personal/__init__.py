"""Experts that learn their user on the device: GE, LE and GN, arXiv 1811.00056, and beyond it.

A *global expert* (GE) serves everybody. A *local expert* (LE) corrects it for one user; a *gate* (GN) says which of the
two answers. Samples, features and weights stay on the node.
"""
