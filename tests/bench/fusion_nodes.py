"""Four experts on four nodes write one text: how long it takes and how many bytes travel, beside averaging in parallel.

Gateway, agents and engines are the real ones; each agent and each engine is a process of its own, all on this machine.
The rival computes every token on every node at once and ships the whole distribution in half precision, through the
same stream and the same code; a second one ships the 32 most probable tokens. Bytes are those of the sockets, counted
by a relay between nodes and gateway: gRPC's and HTTP/2's framing, heartbeats, prompts and joules included, TLS not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from optimizer.routes.route import Fusion, Route
from orchestrator.config import Nodes
from orchestrator.errors import Unavailable
from orchestrator.execution.averaging import TOPS as AVERAGED_TOPS
from orchestrator.execution.course import Course
from orchestrator.execution.ensemble import Ensembles
from orchestrator.execution.run import Progress
from orchestrator.execution.schedule import Schedule
from orchestrator.routing.binding import BoundRoute
from orchestrator.routing.figures import Reading, text_figures
from orchestrator.types import (
    BudgetRequest,
    Delta,
    Done,
    GenerationParameters,
    Limits,
    Message,
    OnInfeasible,
    TextQuery,
)
from tests.fakes.live import Live, live_gateway, until

DEADLINE_S = 120.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES, DATA_FRAME = 9, 0
# What each way of writing sends: token ids, the most probable tokens, whole distributions; the most probable strings,
# of greedy texts and of drawn ones.
TURNS, TOPS, DENSE, BYTES, BYTES_DRAWN = "turns", "tops", "dense", "bytes", "bytes-drawn"


@dataclass
class Relay:
    """Passes bytes on between nodes and gateway, and counts them.

    Args:
        target: The gateway.
        socket_bytes: All of both directions.
        message_bytes: Those of messages: frames of HTTP/2 that carry data, with their heads and gRPC's.
    """

    target: str
    socket_bytes: int = 0
    message_bytes: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        host, _, port = self.target.rpartition(":")
        onward, back = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, back), (onward, writer)):
            task = asyncio.ensure_future(self._pump(source, sink))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        unread = b""
        try:
            while data := await source.read(65536):
                self.socket_bytes += len(data)
                sink.write(data)
                unread = self._count(unread + data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    def _count(self, data: bytes) -> bytes:
        """Count the frames that are complete (RFC 9113, 4.1); the rest."""
        if data.startswith(PREFACE[: len(data)]):
            if len(data) < len(PREFACE):
                return data
            data = data[len(PREFACE) :]
        while len(data) >= FRAME_HEAD_BYTES:
            end = FRAME_HEAD_BYTES + int.from_bytes(data[:3], "big")
            if len(data) < end:
                break
            if data[3] == DATA_FRAME:
                self.message_bytes += end
            data = data[end:]
        return data


@dataclass(frozen=True)
class Text:
    """One text that was written: its tokens (or steps), milliseconds, bytes of messages and of sockets, runs of one
    expert, and bytes of the text itself."""

    tokens: int
    ms: float
    message_bytes: int
    socket_bytes: int
    runs: int
    text_bytes: int


@dataclass
class Fleet:
    """A gateway and a node for each expert."""

    live: Live
    experts: Sequence[str]
    relay: Relay | None

    def _ensembles(self, kind: str, tokens: int) -> Ensembles:
        return Ensembles(
            self.live.gateway.service.attempts, tops=None if kind == DENSE else AVERAGED_TOPS, min_tokens=tokens
        )

    async def write(self, kind: str, question: str, *, tokens: int, seed: int) -> Text:
        """Write a text of so many tokens, ends ignored."""
        query = self._query(kind, question, tokens, seed)
        board = self.live.gateway.service.fleet.board
        arms = tuple(next(s.index for s in board.states if s.arm.expert == expert) for expert in self.experts)
        weights = (1.0,) * len(arms)
        fusion = Fusion.BYTES if kind in (BYTES, BYTES_DRAWN) else Fusion.TOKEN
        bound = BoundRoute(Route((tuple(self.experts),), fusion=fusion, weights=weights), 0, (arms,), "all")
        limits = Limits(float("inf"), DEADLINE_S * 1e3, OnInfeasible.ERROR, "best")
        progress = Progress(limits, time.monotonic(), cast(Any, None))
        figures, until_s = text_figures(board, query), time.monotonic() + DEADLINE_S
        course = Course(query, progress, figures, lambda: _unsure, until_s, Reading(query))
        before = self._counted()
        started_s = time.perf_counter()
        last: Any = None
        text = ""
        try:
            async for piece in self._ensembles(kind, tokens).write(course, bound):
                text += piece.text if isinstance(piece, Delta) else ""
                last = piece
        except Unavailable as lost:
            raise RuntimeError(f"{kind}: {lost.metadata}") from lost
        took_ms = (time.perf_counter() - started_s) * 1e3
        if any(attempt.outcome != "answered" for attempt in progress.attempts):
            raise RuntimeError(f"{kind}: {[attempt.reason for attempt in progress.attempts]}")
        # What is on its way when the text has ended belongs to it.
        await asyncio.sleep(0.05)
        messages, sockets = (now - then for now, then in zip(self._counted(), before, strict=True))
        runs = _runs(weights, seed, tokens)
        return Text(last.completion_tokens, took_ms, messages, sockets, runs, len(text.encode()))

    def _counted(self) -> tuple[int, int]:
        return (0, 0) if self.relay is None else (self.relay.message_bytes, self.relay.socket_bytes)

    def _query(self, kind: str, question: str, tokens: int, seed: int) -> TextQuery:
        temperature = 1.0 if kind in (TURNS, BYTES_DRAWN) else 0.0
        return TextQuery(
            request_id=f"bench-{seed}",
            task=self.live.gateway.service.fleet.tasks["skills"],
            expert=None,
            messages=(Message("user", question),),
            parameters=GenerationParameters(max_tokens=tokens, temperature=temperature, seed=seed),
            budget=BudgetRequest(),
            deadline_s=DEADLINE_S,
        )


def _unsure(_expert: str, done: Done) -> float | None:
    return done.margin_fraction


def _runs(weights: Sequence[float], seed: int, tokens: int) -> int:
    schedule, place, runs = Schedule(weights, seed), 0, 0
    while place < tokens:
        place += schedule.run(place, tokens - place)[1]
        runs += 1
    return runs


@asynccontextmanager
async def fleet(
    experts: Sequence[str], *, counted: bool, folders: Mapping[str, Path] = MappingProxyType({})
) -> AsyncIterator[Fleet]:
    """A gateway with a node for each expert, with a relay that counts between them or without; of some experts the
    folder where they do not ship."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        live = await stack.enter_async_context(live_gateway(folder / "state", nodes=Nodes()))
        address, relay = live.address, None
        if counted:
            relay = Relay(live.address)
            server = await stack.enter_async_context(await asyncio.start_server(relay.serve, "127.0.0.1", 0))
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for expert in experts:
            await _start(stack, address, expert, *([str(folders[expert])] if expert in folders else []))
        board = live.gateway.service.fleet.board
        await until(lambda: {s.arm.expert for s in board.states} >= set(experts), timeout_s=90.0)
        yield Fleet(live, experts, relay)


async def _start(stack: AsyncExitStack, address: str, expert: str, *folder: str) -> None:
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.unread_agent", address, f"on-{expert}", expert, *folder),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )

    async def stop() -> None:
        if agent.returncode is None:
            os.killpg(agent.pid, signal.SIGKILL)
        await agent.wait()

    stack.push_async_callback(stop)
