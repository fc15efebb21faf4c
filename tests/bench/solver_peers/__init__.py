"""Other people's solvers, each given its strongest formulation; see `serve` for the protocol.

Runs in a Python environment of its own, because ortools and this project want different versions of protobuf. So it
imports nothing of the project.
"""
