"""One attempt: its deadline, its patience, and who calls it off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from edgewise.v1 import fleet_pb2
from orchestrator.execution.attempt import MIN_PATIENCE_S, Ask, AttemptFailed, Attempts
from orchestrator.types import AttemptRecord
from tests.fakes.live import until
from tests.orchestrator.builders import an_arm
from tests.orchestrator.execution.house import House, MakeHouse, says, silence
from tests.orchestrator.routing.models import GivenModel, one

SMALL = an_arm("small", "n1", energy_j=0.01)
SPARE = an_arm("small", "n2", energy_j=0.05)
MODEL = GivenModel({one("small"): 0.9})


def an_ask(left_s: float, given_up: list[AttemptRecord], *, spare: Callable[[], bool] = lambda: False) -> Ask:
    def fill(work: fleet_pb2.Work) -> None:
        work.text.messages.add(role="user", content="Hello")

    return Ask(0, 0, "r1", fill, time.monotonic() + left_s, 0.0, spare, given_up.append)


def attempts_of(house: House, *, retries: bool = True) -> Attempts:
    return Attempts(house.fleet, max_patience_s=0.1, retries=retries)


@pytest.mark.parametrize("left_s", [0.25, 0.05, 0.0, -1.0])
@pytest.mark.parametrize("retries", [True, False])
async def test_at_the_deadline_the_work_is_called_off_and_counts(
    make_house: MakeHouse, *, left_s: float, retries: bool
) -> None:
    house = make_house(MODEL)
    node = house.add({SMALL: silence})
    given_up: list[AttemptRecord] = []
    started_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await attempts_of(house, retries=retries).run(an_ask(left_s, given_up), in_time=True)
    assert max(0.0, left_s) - 0.01 <= time.monotonic() - started_s < max(0.0, left_s) + 0.2
    assert [(record.outcome, record.reason) for record in given_up] == [("cancelled", "CANCELLED")]
    assert given_up[0].energy.energy_j == pytest.approx(0.01)
    assert house.fleet.board.nodes["n1"].pending == 0
    await until(lambda: node.cancelled)
    assert node.cancelled == [node.works[0].work_id]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_does_not_ask_for_it_is_not_stopped_at_the_deadline(make_house: MakeHouse) -> None:
    house = make_house(MODEL)
    house.add({SMALL: says(7, delay_s=0.2)})
    done, record = await attempts_of(house).run(an_ask(0.02, []))
    assert (record.outcome, done.work_id) == ("answered", record.work_id)


async def test_a_silent_node_is_suspected_when_patience_ends_and_waited_for_until_the_deadline(
    make_house: MakeHouse,
) -> None:
    house = make_house(MODEL)
    house.add({SMALL: silence})
    house.add({SPARE: silence})
    given_up: list[AttemptRecord] = []
    running = asyncio.ensure_future(attempts_of(house).run(an_ask(3 * MIN_PATIENCE_S, given_up), in_time=True))
    await asyncio.sleep(0.5 * MIN_PATIENCE_S)
    assert house.fleet.state("n1").value == "healthy"
    await asyncio.sleep(MIN_PATIENCE_S)
    assert (house.fleet.state("n1").value, running.done()) == ("suspect", False)
    with pytest.raises(TimeoutError):
        await running
    assert [record.outcome for record in given_up] == ["cancelled"]


async def test_where_another_arm_can_take_over_patience_ends_it(make_house: MakeHouse) -> None:
    house = make_house(MODEL)
    house.add({SMALL: silence})
    given_up: list[AttemptRecord] = []
    with pytest.raises(AttemptFailed) as failed:
        await attempts_of(house).run(an_ask(5.0, given_up, spare=lambda: True), in_time=True)
    assert (failed.value.record.outcome, failed.value.record.reason, given_up) == ("late", "LATE", [])


async def test_a_held_up_gateway_takes_no_node_for_silent(make_house: MakeHouse) -> None:
    house = make_house(MODEL)
    node = house.add({SMALL: says(7, delay_s=0.05)})
    running = asyncio.ensure_future(attempts_of(house).run(an_ask(5.0, [], spare=lambda: True), in_time=True))
    await until(lambda: node.works)
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251 - nothing else runs meanwhile
    _, record = await running
    assert record.outcome == "answered"
    assert house.fleet.state("n1").value == "healthy"


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancellation_from_elsewhere_passes_also_when_time_is_up_as_well(
    make_house: MakeHouse, *, late: bool
) -> None:
    house = make_house(MODEL)
    node = house.add({SMALL: silence})
    given_up: list[AttemptRecord] = []
    running = asyncio.ensure_future(attempts_of(house).run(an_ask(5.0, given_up), in_time=True))
    await until(lambda: node.works)
    if late:
        # As where the deadline comes in the same turn of the loop.
        node.session.pending[node.works[0].work_id].result.set_exception(TimeoutError())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [record.outcome for record in given_up] == ["cancelled"]
    assert house.fleet.board.nodes["n1"].pending == 0


async def test_an_answer_in_time_leaves_no_timer_behind(make_house: MakeHouse) -> None:
    house = make_house(MODEL)
    house.add({SMALL: says(7)})
    house.add({SPARE: silence})
    _, record = await attempts_of(house).run(an_ask(0.15, []), in_time=True)
    await asyncio.sleep(0.2)
    assert record.outcome == "answered"
    assert house.fleet.state("n1").value == "healthy"
