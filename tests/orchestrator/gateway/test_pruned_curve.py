"""A fleet that has one network at several masses moves along that curve as the joules allowed change."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.client import AsyncClient, Budget, FusionChoice
from orchestrator.client.types import Answer
from orchestrator.errors import BudgetInfeasible
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway

# Promises are 2.5 times what nodes announce, until they have been seen to keep to it: 0.2, 0.12 and 0.06 J.
IMAGE = np.zeros((1, 8, 8), dtype=np.float32)
WHOLE, SOME, MOST = "net", "net-m0.8", "net-m0.6"


def curve(share: float) -> list[FakeArm]:
    """One network whole and at two masses, on a node that takes this share of the joules."""
    return [
        FakeArm(WHOLE, energy_j=0.10 * share, quality_fraction=0.99),
        FakeArm(SOME, "mass-0.8", energy_j=0.06 * share, quality_fraction=0.96),
        FakeArm(MOST, "mass-0.6", energy_j=0.03 * share, quality_fraction=0.93),
    ]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Live]:
    """Two nodes; one does everything for four fifths of the other's joules."""
    async with (
        live_gateway(tmp_path) as live,
        live.node(name="thrifty", arms=curve(0.8), behaviour=answers(1)),
        live.node(name="thirsty", arms=curve(1.0), behaviour=answers(1)),
    ):
        yield live


async def ask(client: AsyncClient, request_id: str) -> Answer:
    return await client.infer(IMAGE, fusion=FusionChoice.NONE, request_id=request_id)


def experts(answer: Answer) -> set[str]:
    return {attempt.arm.partition(":")[0] for attempt in answer.routing.attempts}


async def test_the_fleet_moves_along_the_curve_and_back(fleet: Live) -> None:
    async with AsyncClient(fleet.address) as client:
        await client.set_budget(Budget(profile="best"), task="digits")
        assert experts(await ask(client, "free")) == {WHOLE}, "the control: without a budget nothing is pruned"
        for turn, (limit_j, expected) in enumerate([(0.25, WHOLE), (0.15, SOME), (0.08, MOST), (0.15, SOME)]):
            await client.set_budget(Budget(max_energy_j=limit_j, profile="best"), task="digits")
            answer = await ask(client, f"turn-{turn}")
            assert experts(answer) == {expected}, f"at {limit_j} J"
            assert answer.routing.bound_energy_j <= limit_j
        await client.set_budget(Budget(max_energy_j=0.05), task="digits")
        with pytest.raises(BudgetInfeasible, match="smallest that would do is"):
            await ask(client, "too-little")


async def test_why_says_that_the_joules_chose_the_pruned_expert(fleet: Live) -> None:
    async with AsyncClient(fleet.address) as client:
        await client.set_budget(Budget(max_energy_j=0.15, profile="best"), task="digits")
        await ask(client, "pruned")
        why = await client.explain("pruned")
    assert (why.chosen, why.binding_constraint) == (f"{SOME}:mass-0.8@thrifty", "energy")
    excluded = {candidate.route.partition(":")[0]: candidate.excluded_by for candidate in why.candidates}
    assert excluded == {WHOLE: "energy", SOME: "", MOST: ""}
