"""Ports for servers that start later: nobody else gets one in between.

A port that the system gave and took back is given to whoever asks next: any client's connection, any server on port 0.
Ports from here lie below those that the system gives. Each process that runs tests has a block of them for itself.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

LOWEST = 15_000
BLOCK = 256
GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_LEAST = 32_768
# Held until the process ends.
_LOCKS: list[IO[str]] = []


def free_port() -> int:
    """A port of the loopback address on which nobody listens, and which is not told again for many calls."""
    for port in itertools.islice(_of_this_process(), BLOCK):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise RuntimeError("Every port that this process may use is taken; stop what tests have left running.")


def free_address() -> str:
    """An address of this machine that nobody listens on, as `free_port`."""
    return f"127.0.0.1:{free_port()}"


@cache
def _of_this_process() -> Iterator[int]:
    """The ports of a block that no other process has, again and again."""
    blocks = list(range(LOWEST, _least_given() - BLOCK + 1, BLOCK))
    # Another user's processes have a folder of their own, so where to begin is left to chance.
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        if _hold(first):
            return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError(f"{len(blocks)} processes that run tests hold all ports; wait for one to end.")


def _least_given() -> int:
    """The lowest port that the system gives to who wants any."""
    return int(GIVEN.read_text().split()[0]) if GIVEN.exists() else USUAL_LEAST


def _hold(first: int) -> bool:
    """Take a block until this process ends; false where another process has it."""
    folder = Path(tempfile.gettempdir()) / f"edgewise-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock = (folder / str(first)).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    _LOCKS.append(lock)
    return True
