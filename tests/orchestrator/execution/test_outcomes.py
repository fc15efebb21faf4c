"""How a routed query ends: answers that are none, time that runs out, joules that add up."""

import asyncio
import math
import time

import numpy as np
import pytest

from optimizer.routes.route import Fusion
from orchestrator.errors import DeadlineExceeded
from orchestrator.execution.run import total_energy
from orchestrator.types import AttemptRecord, Energy, OnInfeasible, Provenance
from tests.fakes.live import until
from tests.orchestrator.builders import an_arm, limits
from tests.orchestrator.execution.house import (
    MakeHouse,
    distribution,
    fails,
    modelled,
    outcomes,
    says,
    sends,
    silence,
)
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

SMALL = an_arm("small", "n1", energy_j=0.01)
LARGE = an_arm("large", "n2", energy_j=0.1)
SPARE = an_arm("small", "n3", energy_j=0.02)
CASCADE = GivenModel({cascade("small", "large", below=0.9, fusion=Fusion.MIXTURE): 0.95})
SINGLES = GivenModel({one("small"): 0.95, one("large"): 0.9})
FANOUT = GivenModel({together("small", "large"): 0.95})


# ---- answers that are none


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"something": distribution(7)},
        {"probabilities": distribution(7)[:, :5]},
        {"probabilities": np.zeros((1, 11), dtype=np.float32)},
        {"probabilities": np.zeros((0, 10), dtype=np.float32)},
        {"probabilities": np.full((1, 10), np.nan, dtype=np.float32)},
        {"probabilities": np.full((1, 10), np.inf, dtype=np.float32)},
        {"probabilities": np.where(np.arange(10) == 3, np.nan, distribution(7)).astype(np.float32)},
        {"probabilities": -distribution(7)},
        {"probabilities": np.arange(10, dtype=np.int64)[None]},
        {"probabilities": np.zeros((1, 10), dtype=np.float32)},
        {"probabilities": np.full((1, 10), 5.0, dtype=np.float32)},
        {"probabilities": distribution(7) * np.float32(1e30)},
    ],
    ids=[
        "nothing",
        "other name",
        "too few",
        "too many",
        "empty",
        "nan",
        "inf",
        "one nan",
        "negative",
        "integers",
        "all zero",
        "sum of 50",
        "huge",
    ],
)
async def test_what_is_no_distribution_counts_as_a_failure_of_the_arm(
    make_house: MakeHouse, outputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: sends(outputs, energy=modelled(0.03))})
    house.add({SPARE: says(7)})
    progress = house.start()
    fused = await house.run(progress)
    assert int(fused.label) == 7
    assert 0.0 <= float(fused.confidence) <= 1.0
    assert outcomes(progress) == [(SMALL.name, "failed", "OUTPUT_INVALID"), (SPARE.name, "answered", "")]
    assert progress.spent_j == pytest.approx(0.04)


async def test_rounding_is_no_failure(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: sends({"probabilities": (distribution(7) * 1.001).astype(np.float16)})})
    progress = house.start()
    await house.run(progress)
    assert outcomes(progress) == [(SMALL.name, "answered", "")]


# ---- time


async def test_time_runs_out_before_any_answer(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_patience_s=60.0)
    node = house.add({SMALL: silence})
    progress = house.start(limits(latency_ms=120.0))
    started_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await house.run(progress)
    assert 0.05 < time.monotonic() - started_s < 0.22
    await until(lambda: node.cancelled)


async def test_the_first_answer_stands_when_time_runs_out_in_the_second_stage(make_house: MakeHouse) -> None:
    house = make_house(CASCADE, max_patience_s=60.0)
    house.add({SMALL: says(7, 0.5)})
    large = house.add({LARGE: silence})
    progress = house.start(limits(latency_ms=150.0))
    fused = await house.run(progress)
    assert int(fused.label) == 7
    assert progress.elapsed_ms < 250.0
    await until(lambda: large.cancelled)
    # What the second stage had begun has cost joules, and they are counted.
    assert outcomes(progress) == [(SMALL.name, "answered", ""), (LARGE.name, "cancelled", "CANCELLED")]
    assert progress.spent_j == pytest.approx(0.01 + 0.1)


async def test_a_client_that_goes_away_cancels_the_work(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_patience_s=60.0)
    node = house.add({SMALL: silence})
    progress = house.start()
    running = asyncio.ensure_future(house.run(progress))
    await until(lambda: node.works)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: node.cancelled)
    assert outcomes(progress) == [(SMALL.name, "cancelled", "CANCELLED")]
    assert house.fleet.board.states[0].failed == 0


async def test_a_fallback_beyond_the_budget_may_use_the_whole_deadline(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: says(7, delay_s=0.1)})
    progress = house.start(limits(latency_ms=0.5, on_infeasible=OnInfeasible.CHEAPEST))
    assert int((await house.run(progress)).label) == 7


# ---- joules


def an_attempt(energy: Energy, outcome: str = "answered") -> AttemptRecord:
    return AttemptRecord("a", 0, 0.0, energy, 0.0, 0.0, outcome)


def test_joules_add_up_with_the_worst_source_among_them() -> None:
    parts = [
        Energy(1.0, Provenance.MEASURED, "rapl", 0.3),
        Energy(2.0, Provenance.MODELLED, "profile:x", 0.4),
        Energy(4.0, Provenance.REPLAYED, "trace", 0.0),
    ]
    total = total_energy([an_attempt(part) for part in parts])
    assert total == Energy(7.0, Provenance.MODELLED, "profile:x+rapl+trace", 0.5)
    assert total_energy([an_attempt(parts[0])]) == parts[0]
    assert total_energy([]).energy_j == 0.0


def test_one_unknown_part_makes_the_sum_unknown() -> None:
    unknown = Energy(math.nan, Provenance.UNMEASURED, "")
    total = total_energy([an_attempt(Energy(1.0, Provenance.MEASURED, "rapl")), an_attempt(unknown)])
    assert total.provenance is Provenance.UNMEASURED
    assert math.isnan(total.energy_j)


async def test_failed_work_costs_what_the_node_says_or_what_was_predicted(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: fails(energy=modelled(0.5))})
    house.add({SPARE: fails()})
    house.add({LARGE: says(8, energy=modelled(0.2))})
    progress = house.start()
    await house.run(progress)
    assert [attempt.energy.energy_j for attempt in progress.attempts] == [0.5, 0.02, 0.2]


async def test_failed_work_of_an_unmeasured_arm_is_never_free(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({an_arm("small", "n1", energy_j=None): fails()})
    house.add({LARGE: says(8, energy=modelled(0.2))})
    progress = house.start()
    await house.run(progress)
    assert progress.attempts[0].energy.provenance is Provenance.UNMEASURED
    assert total_energy(progress.attempts).provenance is Provenance.UNMEASURED


async def test_answers_teach_the_board(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: says(7, energy=modelled(0.03))})
    for _ in range(9):
        await house.run(house.start())
    assert house.fleet.board.energy_j_n[0] == pytest.approx(0.03)
    assert house.fleet.board.states[0].answered == 9
