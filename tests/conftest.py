"""What all tests share: one thread for linear algebra, as agents and gateways have it (`nodes/__main__.py`)."""

import os

# Before anything imports numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
