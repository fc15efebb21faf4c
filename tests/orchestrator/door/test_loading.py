"""Experts that are not in memory, as clients over HTTP see them."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from orchestrator.residency import Residency
from tests.fakes.live import Live, until
from tests.orchestrator.door.raw import get
from tests.orchestrator.door.test_fusion import arm, ask, says

LOAD_MS = 10_000.0
SOON = {"max_latency_ms": 2000}


async def stands(live: Live, residency: Residency) -> None:
    """The one expert stands so from now on."""
    await until(lambda: live.gateway.planner.standing("chat"))
    live.gateway.service.fleet.board.set_residency(0, residency)


async def test_one_that_is_being_loaded_says_when_to_come_back(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[arm("large", 0.9, 0.01)], behaviour=says("x")) as node:
        await stands(live, Residency("loading", load_ms=LOAD_MS, progress_fraction=0.75))
        with pytest.raises(sdk.InternalServerError) as caught:
            await ask(openai, budget=SOON)
        told: Any = caught.value.body
        assert (caught.value.status_code, told["code"]) == (503, "model_loading")
        assert told["loading"] == {
            "state": "loading",
            "expert": "large",
            "node": "fake-1",
            "progress": 0.75,
            "eta_seconds": 2.5,
        }
        assert caught.value.response.headers["retry-after"] == "3"
        assert node.seen.works == []
        await stands(live, Residency("loaded", load_ms=LOAD_MS))
        assert (await ask(openai, budget=SOON)).choices[0].message.content == "x"


async def test_one_that_nobody_loads_says_what_its_load_takes(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[arm("large", 0.9, 0.01)], behaviour=says("x")):
        await stands(live, Residency("unloaded", load_ms=LOAD_MS))
        with pytest.raises(sdk.UnprocessableEntityError) as caught:
            await ask(openai, budget=SOON)
        told: Any = caught.value.body
        least_ms = told["min_feasible"]["latency_ms"]
        assert least_ms > LOAD_MS
        assert (await ask(openai, budget={"max_latency_ms": 1.1 * least_ms})).choices[0].message.content == "x"


async def test_models_say_whether_they_are_in_memory(live: Live) -> None:
    async with live.node(arms=[arm("large", 0.9, 0.01)], behaviour=says("x")):
        await stands(live, Residency("unloaded", load_ms=LOAD_MS, load_j=4.0))
        (told,) = (await get(live, "/v1/models/large")).json["arms"]
    memory = {"state": "unloaded", "pinned": False, "load_ms": LOAD_MS, "load_joules": 4.0, "progress": None}
    assert told["memory"] == memory
