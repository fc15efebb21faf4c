"""Runs an agent in the foreground: signals in, exit code out."""

from __future__ import annotations

import asyncio
import gc
import signal
import time

import structlog
import uvloop

from nodes.agent.agent import Agent
from nodes.config import NodeConfig
from nodes.errors import ExitCode

SAME_SIGNAL_S = 0.3
# New objects when the collector looks at them; looks until it looks once more at what they left; and those until it
# looks at everything.
LOOKS = (1_000, 2, 20_000)

log = structlog.get_logger("nodes.agent")


def run_agent(config: NodeConfig) -> ExitCode:
    """Serve until drained. The first SIGINT or SIGTERM drains, the second leaves at once.

    Raises:
        NodeError: what kept the agent from starting, or the gateway's refusal.
    """
    return uvloop.run(_run(Agent(config)))


async def _run(agent: Agent) -> ExitCode:
    work = asyncio.ensure_future(_serve(agent))
    signals = _Signals(agent, work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.arrived, number)
    try:
        await work
    except asyncio.CancelledError:
        return ExitCode.INTERRUPTED
    return ExitCode.OK


async def _serve(agent: Agent) -> None:
    try:
        await agent.prepare()
        collect_in_slices()
        await agent.run()
    finally:
        await agent.close()


def collect_in_slices() -> None:
    """Look for garbage often and little from now on, so that no work waits for it.

    What was loaded lives as long as the process and is never looked at again. While new objects are gone through the
    event loop stands: the shorter, the fewer there are. What 50,000 of them do to a gateway, and what a thousand do, is
    in the rows `join_turns` of `tests/faults/results.jsonl`.
    """
    gc.freeze()
    gc.set_threshold(*LOOKS)


class _Signals:
    """The first signal asks, the second insists.

    Supervisors often signal a process and then its group, so signals in quick succession count as one.
    """

    def __init__(self, agent: Agent, work: asyncio.Future[None]) -> None:
        self._agent = agent
        self._work = work
        self._first_s: float | None = None

    def arrived(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            self._agent.drain(f"the node got {number.name}")
        elif now_s - self._first_s > SAME_SIGNAL_S:
            log.warning("leaving at once", signal=number.name)
            self._work.cancel()
