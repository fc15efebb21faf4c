"""`python -m nodes`: the node's commands."""

import os
import sys

# Joules are shared out with small matrices. Threads of the linear algebra library gain nothing there, and where other
# work has the cores they spin for each other: minutes instead of milliseconds. It looks at this when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from nodes.cli import main

sys.exit(main())
