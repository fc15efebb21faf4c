"""Chats that come at once take their steps together, and are spread over the nodes as those that come in turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from orchestrator.gateway.service import Service
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live, until
from tests.orchestrator.door.raw import post

NODES, SLOTS, WORK_MS = 4, 2, 200.0


async def spread(live: Live, chats: int) -> tuple[list[int], list[int]]:
    """Works on each node, and the statuses, of so many chats at once; each may take two works' time."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(NODES):
            arm = FakeArm("small", task="chat", energy_j=0.1 + 0.01 * number, p50_ms=WORK_MS, p95_ms=WORK_MS + 10)
            node = live.node(
                name=f"n{number}", arms=[arm], behaviour=speaks("a", "b", gap_s=WORK_MS / 1e3), concurrency=SLOTS
            )
            nodes.append(await stack.enter_async_context(node))
        await until(lambda: len(live.gateway.service.fleet.board.arms("chat")) == NODES)
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 5,
            "budget": {"max_latency_ms": 2.0 * WORK_MS + 50.0},
        }
        answers = await asyncio.gather(*[post(live, "/v1/chat/completions", body) for _ in range(chats)])
        return [len(node.seen.works) for node in nodes], sorted(answer.status for answer in answers)


async def test_those_that_come_at_once_see_where_those_before_them_went(live: Live) -> None:
    works, statuses = await spread(live, 16)
    assert statuses.count(200) == sum(works)
    assert max(works) <= 2 * SLOTS
    assert min(works) >= SLOTS


async def test_control_a_step_between_choosing_and_sending_sends_them_all_to_one_place(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Service._generate

    async def late(*args: Any, **options: Any) -> Any:
        found: Any = await generate(*args, **options)
        await asyncio.sleep(0)
        return found

    monkeypatch.setattr(Service, "_generate", late)
    works, _ = await spread(live, 16)
    assert max(works) > 2 * SLOTS
