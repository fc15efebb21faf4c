"""`python -m nodes`, tied to whoever started it: ends at once when its standard input does.

The other end of that pipe is in the supervisor alone. However the supervisor ends, the kernel closes it. The agent's
stream to the gateway then breaks, so that its work goes elsewhere and another life of it may connect.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

KILLED = 137


def tie(handle: int) -> None:
    """End this process, without any farewell, when the file ends."""
    threading.Thread(target=_end_with, args=(handle,), name="tether", daemon=True).start()


def _end_with(handle: int) -> None:
    while os.read(handle, 1024):
        pass
    os._exit(KILLED)


def main(arguments: Sequence[str]) -> int:
    """Run a node's command while standard input is open; returns its exit code."""
    from nodes.cli import main as run

    tie(sys.stdin.fileno())
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
