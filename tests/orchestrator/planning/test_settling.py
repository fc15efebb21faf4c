"""How long planning waits while changes keep coming, on a clock that the waits themselves move."""

import asyncio

import pytest

from orchestrator.planning.settling import MAX_SETTLE_S, MOST_SETTLE_S, SETTLE_S, Settling


class Weather:
    """Changes that come with every wait while a storm lasts."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calm_from_s = float("inf")
        self.bereft_from_s = float("inf")
        self.wanted = asyncio.Event()
        self.settling = Settling(lambda: self.now_s >= self.bereft_from_s, sleep=self._sleep, clock=lambda: self.now_s)

    async def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s < self.calm_from_s:
            self.wanted.set()

    async def waited_s(self) -> float:
        """How long the next plan waits."""
        before_s = self.now_s
        await self.settling.settle(self.wanted)
        assert not self.wanted.is_set()
        return self.now_s - before_s


@pytest.fixture
def weather() -> Weather:
    return Weather()


def nearly(seconds: float) -> object:
    """Waits are looked at once every SETTLE_S."""
    return pytest.approx(seconds + SETTLE_S / 2, abs=SETTLE_S / 2 + 1e-9)


async def test_a_single_change_is_planned_for_a_moment_later(weather: Weather) -> None:
    weather.calm_from_s = 0.0
    assert await weather.waited_s() == pytest.approx(SETTLE_S)


async def test_the_longer_a_storm_lasts_the_longer_the_next_plan_waits(weather: Weather) -> None:
    waits_s = [await weather.waited_s() for _ in range(6)]
    assert waits_s[:3] == [nearly(MAX_SETTLE_S), nearly(2.0 * MAX_SETTLE_S), nearly(4.0 * MAX_SETTLE_S)]
    assert waits_s[-1] == nearly(MOST_SETTLE_S)


async def test_after_the_storm_the_next_one_is_planned_for_as_soon_as_the_first(weather: Weather) -> None:
    for _ in range(3):
        await weather.waited_s()
    weather.calm_from_s = weather.now_s
    await weather.waited_s()
    weather.calm_from_s = float("inf")
    assert await weather.waited_s() == nearly(MAX_SETTLE_S)


async def test_a_plan_that_has_lost_what_it_needs_does_not_wait_for_the_storm(weather: Weather) -> None:
    for _ in range(3):
        await weather.waited_s()
    weather.bereft_from_s = weather.now_s + 0.5 * MAX_SETTLE_S
    assert await weather.waited_s() == nearly(MAX_SETTLE_S)


async def test_200_nodes_over_four_seconds_are_planned_for_three_times(weather: Weather) -> None:
    weather.calm_from_s = 4.0
    plans = 0
    while weather.now_s < weather.calm_from_s:
        await weather.waited_s()
        plans += 1
    assert plans <= 3
