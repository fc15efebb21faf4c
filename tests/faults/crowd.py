"""Many agents in one process: ``python -m tests.faults.crowd GATEWAYS PREFIX COUNT [EXPERT]``.

Real agents (`tests.fakes.agents`) on one event loop. SIGUSR1 has those that do not run connect, all at once; SIGHUP
breaks all their connections in one moment, as when a switch loses power, and they come back as they see fit; SIGUSR2
ends them all; SIGTERM ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence

import psutil
import uvloop

from nodes.agent.agent import Agent
from nodes.config import NodeConfig, parse_config
from tests.fakes.agents import HollowEngine, hollow_parts


class Crowd:
    """Agents that come and go together.

    Args:
        gateways: Where they connect.
        prefix: Of their names.
        count: How many.
        experts: What they offer; all that there is without it.
    """

    def __init__(self, gateways: str, prefix: str, count: int, experts: Sequence[str] = ()) -> None:
        self._experts = experts
        self._gateways = gateways.split(",")
        self._configs = [
            parse_config({"gateway": gateways, "name": f"{prefix}-{number}", "concurrency": 4})
            for number in range(count)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()

    def come(self) -> None:
        """All that are not here connect now."""
        if not self._tasks:
            self._tasks = {
                asyncio.ensure_future(_serve(config, seed, self._experts)) for seed, config in enumerate(self._configs)
            }

    def lose(self) -> None:
        """All connections to gateways break."""
        # IPv4 goes through sockets of IPv6.
        found = [
            connection.fd
            for connection in psutil.Process().net_connections("tcp")
            if connection.raddr
            and f"{connection.raddr.ip.removeprefix('::ffff:')}:{connection.raddr.port}" in self._gateways
        ]
        # Looking for them takes longer than a moment.
        for number in found:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)

    def go(self) -> None:
        """All break off."""
        for task in self._tasks:
            task.cancel()
        self._tasks = set()


async def _serve(config: NodeConfig, seed: int, experts: Sequence[str]) -> None:
    agent = Agent(config, hollow_parts(HollowEngine(), experts=experts), rng=random.Random(seed))
    await agent.prepare()
    try:
        await agent.run()
    finally:
        await agent.close()


async def run(gateways: str, prefix: str, count: int, *experts: str) -> None:
    """Serve until SIGTERM."""
    crowd, loop = Crowd(gateways, prefix, count, experts), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, crowd.come)
    loop.add_signal_handler(signal.SIGHUP, crowd.lose)
    loop.add_signal_handler(signal.SIGUSR2, crowd.go)
    loop.add_signal_handler(signal.SIGTERM, crowd.ended.set)
    print("crowd ready", flush=True)
    await crowd.ended.wait()
    crowd.go()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
