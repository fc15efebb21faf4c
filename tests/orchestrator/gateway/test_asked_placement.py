"""Tensor queries that may run on certain nodes only: also where the plan would send them elsewhere."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.client import AsyncClient
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, fails
from tests.fakes.live import Live, live_gateway
from tests.orchestrator.gateway.calls import digit, infer, refusal

CHEAP, DEAR, SAME = FakeArm("small", energy_j=0.01), FakeArm("large", energy_j=0.1), FakeArm("small", energy_j=0.05)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Live]:
    """A cheap node and a dear one, which has an expert of the cheap one's, too."""
    async with (
        live_gateway(tmp_path) as live,
        live.node(name="near", arms=[CHEAP], behaviour=answers(1)),
        live.node(name="far", arms=[DEAR, SAME], behaviour=answers(2)),
    ):
        yield live


async def test_a_query_runs_where_it_may(pair: Live) -> None:
    assert (await infer(pair, digit())).label == "1"
    for node, label in (("near", "1"), ("far", "2")):
        reply = await infer(pair, digit(allowed_nodes=[node]))
        assert reply.label == label
        assert {attempt.arm.rpartition("@")[2] for attempt in reply.routing.attempts} == {node}
    assert (await infer(pair, digit(allowed_nodes=["near", "far"]))).label == "1"


async def test_an_expert_by_name_is_asked_there(pair: Live) -> None:
    reply = await infer(pair, digit(allowed_nodes=["far"], expert="small"))
    assert [attempt.arm for attempt in reply.routing.attempts] == ["small:v1@far"]


async def test_the_client_can_say_so(pair: Live) -> None:
    async with AsyncClient(pair.address) as client:
        answer = await client.infer(np.zeros((1, 8, 8), dtype=np.float32), nodes=["far"])
    assert answer.label == "2"


@pytest.mark.parametrize(
    ("nodes", "reason"), [(["nowhere"], "CAPABILITY_MISSING"), (["../x"], "NAME_INVALID"), ([""], "NAME_INVALID")]
)
async def test_a_node_that_is_not_there_is_said(pair: Live, nodes: list[str], reason: str) -> None:
    refused = await refusal(infer(pair, digit(allowed_nodes=nodes)), reason)
    assert refused.bad_request is not None
    assert [violation.field for violation in refused.bad_request.field_violations] == ["allowed_nodes"]


async def test_an_expert_that_is_elsewhere_is_not_found_there(pair: Live) -> None:
    await refusal(infer(pair, digit(allowed_nodes=["near"], expert="large")), "CAPABILITY_MISSING")


async def test_what_fails_there_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        live.node(name="near", arms=[CHEAP], behaviour=answers(1)),
        live.node(name="far", arms=[DEAR], behaviour=fails()),
    ):
        await refusal(infer(live, digit(allowed_nodes=["far"])), "ATTEMPTS_FAILED")
        # The control: without the restriction the other node answers.
        assert (await infer(live, digit())).label == "1"
