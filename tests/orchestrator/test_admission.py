"""The gateway's door: bounds, order, early refusal, cancellation, draining."""

import asyncio

import pytest

from orchestrator.admission import MIN_RETRY_AFTER_S, Admission
from orchestrator.errors import Unavailable

LONG_S = 60.0


async def turns(count: int = 3) -> None:
    """Let the event loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


class Guest:
    """A request that stays inside until told to go."""

    def __init__(self, admission: Admission, name: str = "", order: list[str] | None = None) -> None:
        self.go = asyncio.Event()
        self.inside = asyncio.Event()
        self._name = name
        self._order = [] if order is None else order
        self.task = asyncio.ensure_future(self._visit(admission))

    async def _visit(self, admission: Admission) -> None:
        async with admission.enter(LONG_S):
            self._order.append(self._name)
            self.inside.set()
            await self.go.wait()


async def test_so_many_run_so_many_wait_the_rest_is_refused() -> None:
    admission = Admission(max_running=2, max_queued=3)
    guests = [Guest(admission) for _ in range(5)]
    await turns()
    assert (admission.running, admission.queued) == (2, 3)
    with pytest.raises(Unavailable) as caught:
        await admission.acquire(LONG_S)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= MIN_RETRY_AFTER_S
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))
    assert (admission.running, admission.queued) == (0, 0)


async def test_who_waits_longest_is_next() -> None:
    admission = Admission(max_running=1, max_queued=10)
    order: list[str] = []
    guests = [Guest(admission, str(number), order) for number in range(6)]
    for guest in guests:
        await guest.inside.wait()
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))
    assert order == [str(number) for number in range(6)]


async def test_a_wait_longer_than_the_deadline_is_refused_at_once() -> None:
    admission = Admission(max_running=1, max_queued=100)
    admission.service_s = 0.5
    guests = [Guest(admission) for _ in range(4)]
    await turns()
    # One runs, three wait: the fourth would wait for four times half a second.
    assert admission.wait_s() == pytest.approx(2.0)
    with pytest.raises(Unavailable) as caught:
        await admission.acquire(1.9)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after_s == pytest.approx(2.0)
    assert admission.queued == 3
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))


async def test_waiting_ends_with_the_deadline_and_leaves_the_queue() -> None:
    admission = Admission(max_running=1, max_queued=1)
    admission.service_s = 0.0
    guest = Guest(admission)
    await guest.inside.wait()
    with pytest.raises(Unavailable):
        await admission.acquire(0.01)
    assert admission.queued == 0
    guest.go.set()
    await guest.task
    assert admission.running == 0


async def test_a_waiter_that_is_cancelled_frees_its_place_in_the_queue() -> None:
    admission = Admission(max_running=1, max_queued=2)
    inside, first, second = (Guest(admission) for _ in range(3))
    await turns()
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    assert admission.queued == 1
    third = Guest(admission)
    await turns()
    assert admission.queued == 2
    for guest in (inside, second, third):
        guest.go.set()
    await asyncio.gather(inside.task, second.task, third.task)
    assert (admission.running, admission.queued) == (0, 0)


async def test_a_place_given_to_who_is_cancelled_in_the_same_moment_is_not_lost() -> None:
    admission = Admission(max_running=1, max_queued=5)
    await admission.acquire(LONG_S)
    leaving, staying = (asyncio.ensure_future(admission.acquire(LONG_S)) for _ in range(2))
    await turns()
    admission.release(0.0)
    leaving.cancel()
    await asyncio.wait_for(staying, 5)
    assert leaving.cancelled()
    admission.release(0.0)
    assert (admission.running, admission.queued) == (0, 0)


async def test_a_place_given_to_who_runs_out_of_time_in_the_same_moment_is_not_lost() -> None:
    admission = Admission(max_running=1, max_queued=5)
    admission.service_s = 0.0
    await admission.acquire(LONG_S)
    loop = asyncio.get_running_loop()
    # Both timers are due when the loop looks again: the release comes first, the timeout before the waiter wakes.
    loop.call_later(0.009, admission.release, 0.0)
    leaving = asyncio.ensure_future(admission.acquire(0.01))
    await turns()
    staying = asyncio.ensure_future(admission.acquire(LONG_S))
    await turns()
    until_s = loop.time() + 0.03
    while loop.time() < until_s:
        pass
    with pytest.raises(Unavailable):
        await leaving
    await asyncio.wait_for(staying, 5)
    admission.release(0.0)
    assert (admission.running, admission.queued) == (0, 0)


async def test_a_closed_door_lets_out_and_not_in() -> None:
    admission = Admission(max_running=1, max_queued=5)
    inside, waiting = Guest(admission), Guest(admission)
    await turns()
    admission.closed = True
    with pytest.raises(Unavailable) as caught:
        await admission.acquire(LONG_S)
    assert caught.value.reason == "DRAINING"
    emptied = asyncio.ensure_future(admission.emptied())
    await turns()
    assert not emptied.done()
    inside.go.set()
    waiting.go.set()
    await asyncio.wait_for(emptied, 5)
    assert admission.running == 0
    await asyncio.gather(inside.task, waiting.task)


async def test_an_empty_house_is_emptied() -> None:
    await asyncio.wait_for(Admission(max_running=1, max_queued=0).emptied(), 1)


async def test_the_predicted_wait_follows_what_requests_really_take() -> None:
    admission = Admission(max_running=4, max_queued=5)
    for _ in range(200):
        await admission.acquire(LONG_S)
        admission.release(0.2)
    assert admission.service_s == pytest.approx(0.2, rel=0.01)
    assert admission.wait_s() == 0.0


async def test_an_error_inside_gives_the_place_back() -> None:
    admission = Admission(max_running=1, max_queued=0)
    with pytest.raises(ValueError, match="inside"):
        async with admission.enter(LONG_S):
            raise ValueError("inside")
    assert admission.running == 0


async def test_more_places_let_those_in_who_wait() -> None:
    admission = Admission(max_running=1, max_queued=3)
    guests = [Guest(admission) for _ in range(4)]
    await turns()
    assert (admission.running, admission.queued) == (1, 3)
    admission.resize(max_running=3, max_queued=3)
    await turns()
    assert (admission.running, admission.queued) == (3, 1)
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))
    assert (admission.running, admission.queued) == (0, 0)


async def test_fewer_places_empty_first_and_then_serve_who_waits() -> None:
    admission = Admission(max_running=3, max_queued=3)
    guests = [Guest(admission) for _ in range(5)]
    await turns()
    admission.resize(max_running=1, max_queued=1)
    for guest in guests[:2]:
        guest.go.set()
    await turns()
    assert (admission.running, admission.queued) == (1, 2)
    guests[2].go.set()
    await turns()
    assert (admission.running, admission.queued) == (1, 1)
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))
    assert (admission.running, admission.queued) == (0, 0)
