"""Chats that are answered whole, at a door where only one may be in at a time."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from orchestrator.config import Admission
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import live_gateway, until
from tests.orchestrator.door.raw import Answer, post

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
ONE_AT_A_TIME = Admission(max_running=1, max_queued=1)


def queued_ms(answer: Answer) -> float:
    (told,) = [part for part in answer.headers["server-timing"].split(", ") if part.startswith("queue;")]
    return float(told.partition("dur=")[2])


async def test_one_runs_one_waits_and_the_rest_is_told_to_come_back(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def behave(turn: Any) -> None:
        await go.wait()
        await speaks("hello")(turn)

    async with (
        live_gateway(tmp_path, admission=ONE_AT_A_TIME) as live,
        live.node(arms=[FakeArm("small", task="chat")], behaviour=behave) as node,
    ):
        admission = live.gateway.service.admission
        first = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        await node.received(1)
        second = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        await until(lambda: admission.queued == 1)
        refused = await post(live, "/v1/chat/completions", BODY)
        assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
        assert (admission.running, admission.queued) == (1, 1)
        await asyncio.sleep(0.05)
        go.set()
        answers = await asyncio.gather(first, second)
        assert [answer.status for answer in answers] == [200, 200]
        assert queued_ms(answers[0]) < 50.0 <= queued_ms(answers[1])
        assert (admission.running, admission.queued) == (0, 0)


async def test_who_leaves_gives_the_place_to_the_next(tmp_path: Path) -> None:
    stay = asyncio.Event()

    async def behave(turn: Any) -> None:
        await stay.wait()
        await speaks("hello")(turn)

    async with (
        live_gateway(tmp_path, admission=ONE_AT_A_TIME) as live,
        live.node(arms=[FakeArm("small", task="chat")], behaviour=behave) as node,
    ):
        admission = live.gateway.service.admission
        first = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        await node.received(1)
        second = asyncio.ensure_future(post(live, "/v1/chat/completions", BODY))
        await until(lambda: admission.queued == 1)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await node.received(2)
        assert (admission.running, admission.queued) == (1, 0)
        stay.set()
        assert (await second).status == 200
        await until(lambda: admission.running == 0)
