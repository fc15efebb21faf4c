"""Tensor queries that may run on certain nodes only: also where the plan would send them elsewhere."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edgewise.v1 import common_pb2 as common
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


def pruned(mass: str, energy_j: float) -> FakeArm:
    return FakeArm(f"net-m{mass}", f"mass-{mass}", energy_j=energy_j, quality_fraction=0.9 + float(mass) / 20)


@pytest.fixture
async def curve(tmp_path: Path) -> AsyncIterator[Live]:
    """One network whole and at two masses, on one node."""
    arms = [FakeArm("net", energy_j=0.1, quality_fraction=0.99), pruned("0.8", 0.08), pruned("0.6", 0.06)]
    async with live_gateway(tmp_path) as live, live.node(name="near", arms=arms, behaviour=answers(1)):
        yield live


@pytest.mark.parametrize(
    ("most", "allowed"),
    [(0.6, {"net-m0.6"}), (0.7, {"net-m0.6"}), (0.8, {"net-m0.6", "net-m0.8"}), (0.0, None), (1.0, None)],
)
async def test_a_request_bounds_the_operating_points_that_may_answer(
    curve: Live, most: float, allowed: set[str] | None
) -> None:
    for profile in ("eco", "best"):
        reply = await infer(curve, digit(max_mass=most, budget=common.Budget(profile=profile)))
        used = {attempt.arm.partition(":")[0] for attempt in reply.routing.attempts}
        assert used <= (allowed or {"net", "net-m0.8", "net-m0.6"})
    whole = await infer(curve, digit(max_mass=most, expert="net-m0.6"))
    assert [attempt.arm for attempt in whole.routing.attempts] == ["net-m0.6:mass-0.6@near"]
    if allowed is not None:  # The control: without the bound the whole network answers when it is named.
        await refusal(infer(curve, digit(max_mass=most, expert="net")), "CAPABILITY_MISSING")
    assert (await infer(curve, digit(expert="net"))).label == "1"


async def test_the_client_can_bound_the_mass(curve: Live) -> None:
    async with AsyncClient(curve.address) as client:
        answer = await client.infer(np.zeros((1, 8, 8), dtype=np.float32), max_mass=0.6)
    assert [attempt.arm for attempt in answer.routing.attempts] == ["net-m0.6:mass-0.6@near"]


@pytest.mark.parametrize("most", [-0.1, 1.1, float("nan")])
async def test_a_mass_that_is_none_is_refused(curve: Live, most: float) -> None:
    refused = await refusal(infer(curve, digit(max_mass=most)), "FIELD_OUT_OF_RANGE")
    assert refused.bad_request is not None
    assert [violation.field for violation in refused.bad_request.field_violations] == ["max_mass"]


async def test_what_fails_there_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        live.node(name="near", arms=[CHEAP], behaviour=answers(1)),
        live.node(name="far", arms=[DEAR], behaviour=fails()),
    ):
        await refusal(infer(live, digit(allowed_nodes=["far"])), "ATTEMPTS_FAILED")
        # The control: without the restriction the other node answers.
        assert (await infer(live, digit())).label == "1"
