"""At which pace nodes come in, on a clock that moves when everybody waits."""

import asyncio
import heapq
from collections.abc import Iterable
from itertools import pairwise

import pytest

from orchestrator.gateway import pace
from orchestrator.gateway.pace import AT_ONCE, FRACTION, MOST_WAIT_S, PAUSE_S, TURN_S, Pace

# Taking one in is worth a pause of twice the shortest.
DEAR_S = 2.0 * PAUSE_S * FRACTION


class Door:
    """A pace, and when whom it let in."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.entered: dict[int, float] = {}
        self.cost_s = cost_s
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self.pace = Pace(sleep=self._sleep, clock=lambda: self.now_s)

    async def _sleep(self, seconds: float) -> None:
        alarm = asyncio.get_running_loop().create_future()
        heapq.heappush(self._alarms, (self.now_s + seconds, len(self._alarms), alarm))
        await alarm

    async def come(self, node: int, *, urgent: bool = False) -> None:
        """One node that comes, waits and is let in."""
        await self.pace.turn(lambda: urgent)
        self.entered[node] = self.now_s
        self.pace.took(self.cost_s)

    def all_come(self, nodes: Iterable[int]) -> list[asyncio.Task[None]]:
        """Nodes that come in one moment."""
        return [asyncio.create_task(self.come(node)) for node in nodes]

    def gaps_s(self) -> list[float]:
        """Between one that came in and the next."""
        return [after_s - before_s for before_s, after_s in pairwise(self.entered.values())]

    async def until(self, seconds: float) -> None:
        """Move the clock."""
        await self._idle()
        while self._alarms and self._alarms[0][0] <= seconds:
            self.now_s, _, alarm = heapq.heappop(self._alarms)
            if not alarm.done():
                alarm.set_result(None)
            await self._idle()
        self.now_s = seconds

    async def _idle(self) -> None:
        """Returns when nothing happens any more without the clock."""
        before, seen = (-1, -1, -1), (0, 0, 0)
        while seen != before:
            before = seen
            for _ in range(6):
                await asyncio.sleep(0)
            seen = (self.pace.waiting, len(self.entered), len(self._alarms))


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_few_come_in_at_once(door: Door) -> None:
    door.all_come(range(AT_ONCE))
    await door.until(1.0)
    assert list(door.entered) == list(range(AT_ONCE))
    assert max(door.entered.values()) == pytest.approx(AT_ONCE * TURN_S)


@pytest.mark.parametrize(("cost_s", "pause_s"), [(0.0, PAUSE_S), (DEAR_S, 2.0 * PAUSE_S)], ids=["cheap", "dear"])
async def test_of_many_each_waits_for_what_the_one_before_took(door: Door, cost_s: float, pause_s: float) -> None:
    door.cost_s = cost_s
    door.all_come(range(50))
    await door.until(MOST_WAIT_S)
    assert list(door.entered) == list(range(50))
    # While the first come in, a few pauses more are paid for.
    assert door.gaps_s()[2 * AT_ONCE :] == [pytest.approx(pause_s)] * (49 - 2 * AT_ONCE)


async def test_without_a_pause_all_come_as_fast_as_a_few(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what holds them up is the pause."""
    monkeypatch.setattr(pace, "PAUSE_S", 0.0)
    door.all_come(range(50))
    await door.until(MOST_WAIT_S)
    assert door.gaps_s() == [pytest.approx(TURN_S)] * 49


@pytest.mark.parametrize("nodes", [200, 400])
async def test_nobody_waits_for_longer_than_nodes_do(door: Door, nodes: int) -> None:
    door.cost_s = 0.02
    door.all_come(range(nodes))
    await door.until(MOST_WAIT_S + 0.1)
    assert len(door.entered) == nodes
    assert door.pace.waiting == 0


async def test_what_nobody_else_can_do_does_not_wait(door: Door) -> None:
    door.all_come(range(100))
    await door.until(0.3)
    hurried = asyncio.create_task(door.come(1000, urgent=True))
    patient = asyncio.create_task(door.come(1001))
    await door.until(0.31)
    assert hurried.done()
    assert not patient.done()
    await door.until(MOST_WAIT_S)
    assert list(door.entered)[-1] == 1001


async def test_who_goes_leaves_the_queue(door: Door) -> None:
    coming = door.all_come(range(60))
    await door.until(0.2)
    let_in = len(door.entered)
    for task in coming[let_in:50]:
        task.cancel()
    await door.until(0.25)
    assert door.pace.waiting <= 10
    await door.until(0.25 + 11 * PAUSE_S)
    assert set(door.entered) == {*range(let_in), *range(50, 60)}


async def test_after_a_storm_that_could_not_wait_a_few_come_in_at_once_again() -> None:
    door = Door(cost_s=0.02)
    door.all_come(range(200))
    await door.until(MOST_WAIT_S + 0.1)
    calm_s = MOST_WAIT_S + 0.1 + AT_ONCE * 0.02 / FRACTION
    await door.until(calm_s)
    door.all_come(range(200, 200 + AT_ONCE))
    await door.until(calm_s + 1.0)
    assert max(door.entered.values()) == pytest.approx(calm_s + AT_ONCE * TURN_S)
