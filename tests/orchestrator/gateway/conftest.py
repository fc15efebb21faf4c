"""Live gateways for the tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway
from tests.orchestrator.gateway.calls import chat, digit, generate, infer

ARMS = (
    FakeArm("small", energy_j=0.01, p50_ms=1.0, p95_ms=2.0),
    FakeArm("large", energy_j=0.1, p50_ms=5.0, p95_ms=8.0, quality_fraction=0.97),
    FakeArm("speaker", task="chat", energy_j=0.5),
)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway without nodes."""
    async with live_gateway(tmp_path) as live:
        yield live


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway with one node; whatever a test does to it, it lives on and answers the next good call."""
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=ARMS, behaviour=answers(7), by_expert={"speaker": speaks("hi")}),
    ):
        await infer(live, digit())
        yield live
        assert (await infer(live, digit())).label == "7"
        assert (await generate(live, chat()))[-1].HasField("done")
