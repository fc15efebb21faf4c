"""Running a routed query: stages, retries, partial answers, and what it all has cost."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from optimizer.routes import Fusion
from orchestrator.errors import DeadlineExceeded, Unavailable
from orchestrator.execution.run import Progress, fusion_of, total_energy
from orchestrator.types import AttemptRecord, Energy, FusionChoice, OnInfeasible, Provenance
from tests.fakes.live import until
from tests.orchestrator.builders import an_arm, limits
from tests.orchestrator.execution.house import House, distribution, fails, modelled, says, sends, silence
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

SMALL = an_arm("small", "n1", energy_j=0.01)
LARGE = an_arm("large", "n2", energy_j=0.1)
SPARE = an_arm("small", "n3", energy_j=0.02)
CASCADE = GivenModel({cascade("small", "large", below=0.9, fusion=Fusion.MIXTURE): 0.95})
SINGLES = GivenModel({one("small"): 0.95, one("large"): 0.9})
FANOUT = GivenModel({together("small", "large"): 0.95})

MakeHouse = Callable[..., House]


@pytest.fixture
async def make_house() -> AsyncIterator[MakeHouse]:
    houses: list[House] = []

    def make(model: GivenModel, **fields: object) -> House:
        houses.append(House(model, **fields))  # type: ignore[arg-type]
        return houses[-1]

    yield make
    for house in houses:
        await house.close()
        # Whatever happened, no slot stays taken and nothing is owed.
        assert [load.pending for load in house.fleet.board.nodes.values()] == [0] * len(house.nodes)
        assert all(not node.session.pending for node in house.nodes.values())


def outcomes(progress: Progress) -> list[tuple[str, str, str]]:
    return [(attempt.arm, attempt.outcome, attempt.reason) for attempt in progress.attempts]


# ---- stages


async def test_a_cascade_stops_as_soon_as_it_is_sure(make_house: MakeHouse) -> None:
    house = make_house(CASCADE)
    house.add({SMALL: says(7, 0.95)})
    large = house.add({LARGE: says(8)})
    progress = house.start()
    fused = await house.run(progress)
    assert int(fused.label) == 7
    assert large.works == []
    assert outcomes(progress) == [(SMALL.name, "answered", "")]
    assert fusion_of(progress) is FusionChoice.NONE


async def test_a_cascade_goes_on_below_its_threshold_and_fuses(make_house: MakeHouse) -> None:
    house = make_house(CASCADE)
    house.add({SMALL: says(7, 0.5, energy=modelled(0.02))})
    house.add({LARGE: says(8, 0.9, energy=modelled(0.3))})
    progress = house.start()
    fused = await house.run(progress)
    assert int(fused.label) == 8
    expected = (distribution(7, 0.5) + distribution(8, 0.9))[0] / 2
    np.testing.assert_allclose(fused.probabilities_c, expected, rtol=1e-6)
    assert [attempt.stage for attempt in progress.attempts] == [0, 1]
    assert progress.spent_j == pytest.approx(0.32)
    assert fusion_of(progress) is FusionChoice.MIXTURE


async def test_the_next_stage_does_not_run_when_its_joules_are_gone(make_house: MakeHouse) -> None:
    """The first stage took more than predicted: what is left would not cover the second."""
    house = make_house(CASCADE)
    house.add({SMALL: says(7, 0.5, energy=modelled(0.06))})
    large = house.add({LARGE: says(8)})
    progress = house.start(limits(energy_j=0.15))
    fused = await house.run(progress)
    assert int(fused.label) == 7
    assert large.works == []


async def test_best_effort_runs_every_stage_whatever_it_costs(make_house: MakeHouse) -> None:
    house = make_house(CASCADE)
    house.add({SMALL: says(7, 0.5, energy=modelled(0.06))})
    house.add({LARGE: says(8, 0.9)})
    progress = house.start(limits(energy_j=0.05, on_infeasible=OnInfeasible.BEST_EFFORT))
    assert not progress.decision.within
    assert int((await house.run(progress)).label) == 8


async def test_work_says_what_it_may_take(make_house: MakeHouse) -> None:
    house = make_house(CASCADE)
    small = house.add({SMALL: says(7, 0.5, energy=modelled(0.02))})
    large = house.add({LARGE: says(8, 0.9)})
    await house.run(house.start(limits(energy_j=0.5, latency_ms=800.0)))
    assert small.works[0].energy_limit_j == pytest.approx(0.5)
    assert large.works[0].energy_limit_j == pytest.approx(0.48)
    assert 0 < large.works[0].deadline_ms <= small.works[0].deadline_ms <= 800.0
    assert small.works[0].request_id == "r1"


async def test_no_joule_limit_is_told_as_none(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    node = house.add({SMALL: says(7)})
    await house.run(house.start())
    assert node.works[0].energy_limit_j == 0.0


async def test_experts_of_one_stage_run_side_by_side_and_one_answer_is_enough(make_house: MakeHouse) -> None:
    house = make_house(FANOUT)
    house.add({SMALL: fails()})
    house.add({LARGE: says(8)})
    progress = house.start()
    assert int((await house.run(progress)).label) == 8
    assert sorted(outcomes(progress)) == [(LARGE.name, "answered", ""), (SMALL.name, "failed", "ENGINE_ERROR")]


# ---- retries


async def test_a_failed_arm_is_replaced_by_the_next_best(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: fails("ENGINE_DIED")})
    house.add({SPARE: says(7)})
    progress = house.start()
    assert int((await house.run(progress)).label) == 7
    assert outcomes(progress) == [(SMALL.name, "failed", "ENGINE_DIED"), (SPARE.name, "answered", "")]
    assert house.fleet.board.states[0].failed == 1


async def test_another_expert_takes_over_where_no_copy_is_left(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: fails()})
    house.add({LARGE: says(8)})
    assert int((await house.run(house.start())).label) == 8


async def test_a_failed_second_stage_leaves_the_first_answer(make_house: MakeHouse) -> None:
    house = make_house(CASCADE)
    house.add({SMALL: says(7, 0.5)})
    house.add({LARGE: fails()})
    progress = house.start()
    assert int((await house.run(progress)).label) == 7
    assert [outcome for _, outcome, _ in outcomes(progress)] == ["answered", "failed"]


async def test_what_was_answered_is_not_asked_again_after_a_failure(make_house: MakeHouse) -> None:
    model = GivenModel({cascade("small", "large"): 0.95, one("large"): 0.9, one("small"): 0.8})
    house = make_house(model)
    small = house.add({SMALL: says(7, 0.5)})
    house.add({LARGE: fails()})
    other = house.add({an_arm("large", "n4", energy_j=0.4): says(8, 0.9)})
    progress = house.start()
    fused = await house.run(progress)
    assert int(fused.label) == 8
    assert len(small.works) == 1
    assert len(other.works) == 1


async def test_a_final_failure_is_not_tried_elsewhere(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    house.add({SMALL: fails("INPUT_INVALID", final=True)})
    spare = house.add({SPARE: says(7)})
    with pytest.raises(Unavailable) as caught:
        await house.run(house.start())
    assert caught.value.reason == "ATTEMPTS_FAILED"
    assert caught.value.metadata == {"reasons": "INPUT_INVALID", "attempts": "1"}
    assert spare.works == []


async def test_attempts_are_bounded(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_attempts=3)
    for number in range(5):
        house.add({an_arm("small", f"n{number}"): fails()})
    progress = house.start()
    with pytest.raises(Unavailable):
        await house.run(progress)
    assert len(progress.attempts) == 3


async def test_with_retries_off_the_first_failure_is_the_end(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, retries=False, max_attempts=1)
    house.add({SMALL: fails()})
    spare = house.add({SPARE: says(7)})
    with pytest.raises(Unavailable):
        await house.run(house.start())
    assert spare.works == []


async def test_a_node_that_goes_away_fails_its_work_at_once(make_house: MakeHouse) -> None:
    house = make_house(SINGLES)
    node = house.add({SMALL: silence})
    house.add({SPARE: says(7)})
    progress = house.start()
    running = asyncio.ensure_future(house.run(progress))
    await until(lambda: node.works)
    house.fleet.leave(node.session)
    assert int((await running).label) == 7
    assert outcomes(progress)[0] == (SMALL.name, "failed", "NODE_GONE")


async def test_a_silent_arm_is_given_up_when_another_can_take_over(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_patience_s=0.1)
    node = house.add({SMALL: silence})
    house.add({SPARE: says(7)})
    progress = house.start()
    started_s = time.monotonic()
    assert int((await house.run(progress)).label) == 7
    assert time.monotonic() - started_s < 0.6
    assert outcomes(progress) == [(SMALL.name, "late", "LATE"), (SPARE.name, "answered", "")]
    assert house.fleet.state("n1").value == "suspect"
    await until(lambda: node.cancelled)
    assert node.cancelled == [node.works[0].work_id]


async def test_a_slow_arm_without_a_spare_is_waited_for(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_patience_s=0.05)
    house.add({SMALL: says(7, delay_s=0.25)})
    progress = house.start()
    assert int((await house.run(progress)).label) == 7
    assert outcomes(progress) == [(SMALL.name, "answered", "")]


async def test_a_node_that_talks_is_late_and_no_suspect(make_house: MakeHouse) -> None:
    house = make_house(SINGLES, max_patience_s=0.1)
    node = house.add({SMALL: silence})
    house.add({SPARE: says(7)})
    progress = house.start()
    running = asyncio.ensure_future(house.run(progress))
    await until(lambda: node.works)
    node.session.accepts(node.session.epoch, 2)
    await running
    assert outcomes(progress)[0][1] == "late"
    assert house.fleet.state("n1").value == "healthy"


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
