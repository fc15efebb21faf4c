"""Chats that are answered whole, at a door where only one may be in at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Admission
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.node import FakeNode
from tests.orchestrator.door.raw import Answer, post

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
ONE_AT_A_TIME = Admission(max_running=1, max_queued=1)


def queued_ms(answer: Answer) -> float:
    (told,) = [part for part in answer.headers["server-timing"].split(", ") if part.startswith("queue;")]
    return float(told.partition("dur=")[2])


@dataclass
class Full:
    """One chat is in and one waits; whoever is in ends once `go` is set."""

    live: Live
    node: FakeNode
    go: asyncio.Event
    first: asyncio.Task[Answer]
    second: asyncio.Task[Answer]

    @property
    def inside(self) -> tuple[int, int]:
        """How many run, how many wait."""
        admission = self.live.gateway.service.admission
        return admission.running, admission.queued


@contextlib.asynccontextmanager
async def full(state: Path) -> AsyncIterator[Full]:
    """A door where nobody else comes in."""
    go = asyncio.Event()

    async def behave(turn: Any) -> None:
        await go.wait()
        await speaks("hello")(turn)

    async with (
        live_gateway(state, admission=ONE_AT_A_TIME) as live,
        live.node(arms=[FakeArm("small", task="chat")], behaviour=behave) as node,
    ):
        first = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        await node.received(1)
        second = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        door = Full(live, node, go, first, second)
        await until(lambda: door.inside == (1, 1))
        yield door


async def test_one_runs_one_waits_and_the_rest_is_told_to_come_back(tmp_path: Path) -> None:
    async with full(tmp_path) as door:
        refused = await post(door.live, "/v1/chat/completions", BODY)
        assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
        assert door.inside == (1, 1)
        await asyncio.sleep(0.05)
        door.go.set()
        answers = await asyncio.gather(door.first, door.second)
        assert [answer.status for answer in answers] == [200, 200]
        assert queued_ms(answers[0]) < 50.0 <= queued_ms(answers[1])
        assert door.inside == (0, 0)


async def test_who_leaves_gives_the_place_to_the_next(tmp_path: Path) -> None:
    async with full(tmp_path) as door:
        door.first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await door.first
        await door.node.received(2)
        assert door.inside == (1, 0)
        door.go.set()
        assert (await door.second).status == 200
        await until(lambda: door.inside == (0, 0))
