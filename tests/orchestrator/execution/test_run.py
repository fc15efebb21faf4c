"""Running a routed query: stages, retries, partial answers, and what it all has cost."""

import asyncio
import time

import numpy as np
import pytest

from optimizer.routes.route import Fusion
from orchestrator.errors import RequestError, Unavailable
from orchestrator.execution.run import fusion_of
from orchestrator.types import FusionChoice, OnInfeasible
from tests.fakes.live import until
from tests.orchestrator.builders import an_arm, limits
from tests.orchestrator.execution.house import (
    MakeHouse,
    distribution,
    fails,
    modelled,
    outcomes,
    says,
    silence,
)
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

SMALL = an_arm("small", "n1", energy_j=0.01)
LARGE = an_arm("large", "n2", energy_j=0.1)
SPARE = an_arm("small", "n3", energy_j=0.02)
CASCADE = GivenModel({cascade("small", "large", below=0.9, fusion=Fusion.MIXTURE): 0.95})
SINGLES = GivenModel({one("small"): 0.95, one("large"): 0.9})
FANOUT = GivenModel({together("small", "large"): 0.95})


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


async def test_of_two_answers_the_surer_stands_as_it_is(make_house: MakeHouse) -> None:
    house = make_house(GivenModel({cascade("small", "large", below=0.9, fusion=Fusion.SUREST): 0.95}))
    house.add({SMALL: says(7, 0.8)})
    house.add({LARGE: says(8, 0.6)})
    progress = house.start()
    fused = await house.run(progress)
    np.testing.assert_allclose(fused.probabilities_c, distribution(7, 0.8)[0], rtol=1e-6)
    assert [attempt.stage for attempt in progress.attempts] == [0, 1]
    assert fusion_of(progress) is FusionChoice.NONE


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
    with pytest.raises(RequestError) as caught:
        await house.run(house.start())
    # Nothing that the same call could change: whoever retries what may be retried must not.
    assert (caught.value.reason, caught.value.surface.retryable) == ("INPUT_INVALID", False)
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


@pytest.mark.parametrize(
    ("reasons", "told"),
    [(("NODE_BUSY", "NODE_BUSY"), "OVERLOADED"), (("NODE_BUSY", "ENGINE_ERROR"), "ATTEMPTS_FAILED")],
)
async def test_nodes_that_only_had_no_room_are_no_failure(
    make_house: MakeHouse, reasons: tuple[str, str], told: str
) -> None:
    house = make_house(GivenModel({one("small"): 0.8}))
    for node, reason in zip(("n1", "n2"), reasons, strict=True):
        house.add({an_arm("small", node): fails(reason)})
    with pytest.raises(Unavailable) as caught:
        await house.run(house.start())
    assert caught.value.reason == told
    assert caught.value.retry_after_s is not None


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
