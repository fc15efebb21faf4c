"""Runs a module as a guest of the machine: on processor time that nobody else wants, from its first import on.

``python -m nodes.personal.guest MODULE ARGUMENTS...``. Where it runs, what is served is not to notice. On Linux it dies
with whoever started it, who may just have stopped it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys

LOWEST = 19
PR_SET_PDEATHSIG = 1


def step_back() -> None:
    """Take the lowest priority that there is here; on Linux the idle class, which whatever else wakes up displaces."""
    os.nice(LOWEST)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # A container may forbid it; the lowest priority is left.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """See the module."""
    del sys.argv[0]
    step_back()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
