"""`python -m nodes`: the node's commands."""

import sys

from nodes.cli import main

sys.exit(main())
