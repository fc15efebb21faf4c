"""`python -m deploy`."""

from __future__ import annotations

import sys

from deploy.commands import main

sys.exit(main())
