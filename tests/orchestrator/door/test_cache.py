"""Answers that are given again: for exactly the same request of the same tenant, and for no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Cache
from orchestrator.door.cache import AnswerCache, answer_key
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import fails, speaks
from tests.fakes.live import Live, live_gateway
from tests.orchestrator.builders import Clock, an_arm
from tests.orchestrator.door.raw import Answer, post

CHAT = FakeArm("small", task="chat", energy_j=0.1)
ASK: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with live_gateway(tmp_path, cache=Cache(enabled=True)) as gateway:
        yield gateway


async def ask(live: Live, body: dict[str, Any], **headers: str) -> Answer:
    reply = await post(live, "/v1/chat/completions", body, **headers)
    assert reply.status == 200, reply.body
    return reply


async def test_the_same_request_again_costs_nothing_and_says_so(live: Live) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("Hel", "lo")) as node:
        first, again = await ask(live, ASK), await ask(live, ASK)
        assert len(node.seen.works) == 1
    assert "x-edgewise-cache" not in first.headers
    assert (again.headers["x-edgewise-cache"], again.headers["x-energy-joules"]) == ("hit", "0")
    told = again.json
    assert told["choices"] == first.json["choices"]
    assert (told["energy"]["energy_joules"], told["energy"]["source"]) == (0.0, "measured")
    assert told["id"] != first.json["id"]
    entry = live.gateway.service.journal.get(again.headers["x-edgewise-request-id"])
    assert (entry.outcome, entry.energy.energy_j) == ("cached", 0.0)


async def test_a_stream_may_be_answered_with_what_was_sent_whole(live: Live) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("Hel", "lo")) as node:
        await ask(live, ASK)
        again = await ask(live, {**ASK, "stream": True})
        assert len(node.seen.works) == 1
    assert '"content":"Hello"' in again.body.decode()
    assert "data: [DONE]" in again.body.decode()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**ASK, "messages": [{"role": "user", "content": "hello "}]}, {}),
        ({**ASK, "max_tokens": 9}, {}),
        ({**ASK, "budget": {"max_energy_j": 5}}, {}),
        (ASK, {"x-edgewise-max-energy-j": "5"}),
        (ASK, {"cache-control": "no-cache"}),
        (ASK, {"x-edgewise-request-id": "mine"}),
        ({**ASK, "explain": True}, {}),
    ],
)
async def test_another_request_is_answered_anew(live: Live, body: dict[str, Any], headers: dict[str, str]) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("hi")) as node:
        await ask(live, ASK)
        reply = await ask(live, body, **headers)
        assert len(node.seen.works) == 2
    assert "x-edgewise-cache" not in reply.headers


@pytest.mark.parametrize(("fixed", "works"), [({}, 2), ({"temperature": 0.7}, 2), ({"temperature": 0.7, "seed": 3}, 1)])
async def test_only_fixed_answers_are_kept(live: Live, fixed: dict[str, Any], works: int) -> None:
    asked = {key: value for key, value in ASK.items() if key != "temperature"} | fixed
    async with live.node(arms=[CHAT], behaviour=speaks("hi")) as node:
        await ask(live, asked)
        await ask(live, asked)
        assert len(node.seen.works) == works


async def test_what_failed_is_not_kept(live: Live) -> None:
    async with live.node(arms=[CHAT], behaviour=fails("ENGINE_ERROR", final=True)):
        assert (await post(live, "/v1/chat/completions", ASK)).status >= 500
    async with live.node(arms=[CHAT], behaviour=speaks("hi")):
        assert (await ask(live, ASK)).json["choices"][0]["message"]["content"] == "hi"


async def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    """The control."""
    async with live_gateway(tmp_path) as live, live.node(arms=[CHAT], behaviour=speaks("hi")) as node:
        await ask(live, ASK)
        await ask(live, ASK)
        assert len(node.seen.works) == 2


def test_keys_tell_tenants_and_models_apart() -> None:
    one = answer_key("a", "/v1", b"{}", [an_arm(model_digest="1")])
    assert one == answer_key("a", "/v1", b"{}", [an_arm(model_digest="1", node="n2"), an_arm(model_digest="1")])
    assert len(one) == 32
    others = [
        answer_key("b", "/v1", b"{}", [an_arm(model_digest="1")]),
        answer_key("a", "/v1", b"{}", [an_arm(model_digest="2")]),
        answer_key("", "a/v1", b"{}", [an_arm(model_digest="1")]),
        answer_key("a", "/v1", b"{ }", [an_arm(model_digest="1")]),
    ]
    assert len({one, *others}) == 5


def test_the_longest_unused_leave_and_old_ones_are_not_given() -> None:
    clock = Clock()
    cache = AnswerCache(max_bytes=10, ttl_s=5.0, clock=clock)
    for key in (b"a", b"b"):
        cache.put(key, b"12345")
    assert cache.get(b"a") == b"12345"
    cache.put(b"c", b"123")
    assert (cache.get(b"b"), cache.get(b"a")) == (None, b"12345")
    cache.put(b"d", b"12345678901")
    assert (cache.get(b"d"), len(cache)) == (None, 2)
    clock.now_s += 5.0
    assert cache.get(b"a") is None
    assert cache.get(b"c") is None
    assert len(cache) == 0
