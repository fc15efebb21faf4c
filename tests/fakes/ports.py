"""Ports for servers that start later: nobody else gets one in between.

A port that the system gave and took back is given to whoever asks next: any client's connection, any server on port 0.
Ports from here lie below those that the system gives. Each process that runs tests has a block of them for itself.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LOWEST = 15_000
BLOCK = 256
GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_LEAST = 32_768
# Held until the process ends.
_HELD: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback address on which nobody listens, and which is not told again for many calls."""
    for port in itertools.islice(_of_process(os.getpid()), BLOCK):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    # Where the system gives low ports as well, one of its own must do.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def free_address() -> str:
    """An address of this machine that nobody listens on, as `free_port`."""
    return f"127.0.0.1:{free_port()}"


@cache
def _of_process(_pid: int) -> Iterator[int]:
    """The ports of a block that no other process has, again and again; none where there is no such block."""
    blocks = list(range(LOWEST, least_given() - BLOCK + 1, BLOCK))
    # Not all begin at the same one and find it held.
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        if hold(first):
            return itertools.cycle(range(first + 1, first + BLOCK))
    return iter(())


def least_given() -> int:
    """The lowest port that the system gives to who wants any."""
    return int(GIVEN.read_text().split()[0]) if GIVEN.exists() else USUAL_LEAST


def hold(first: int) -> bool:
    """Take a block, by its first port, until this process ends; false where somebody has it."""
    sign = socket.socket()
    try:
        sign.bind(("127.0.0.1", first))
    except OSError:
        sign.close()
        return False
    _HELD.append(sign)
    return True
