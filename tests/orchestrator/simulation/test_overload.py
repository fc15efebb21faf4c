"""Sustained overload: what is answered waits little, as much is answered as without that, and nobody is starved.

Simulated, on the code that decides in the gateway. Each with its control: with the protection off the same load ends
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from orchestrator.fleet import shedding
from orchestrator.fleet.shedding import Shedding
from orchestrator.simulation.load import Load
from orchestrator.simulation.outcome import CODE, Outcome
from orchestrator.simulation.run import simulate
from orchestrator.simulation.world import GatewayTraits, TaskClass, World
from orchestrator.types import BudgetRequest
from tests.orchestrator.simulation.worlds import a_device, a_load, a_world, an_expert

WIDE = GatewayTraits(max_running=65_536)
SECONDS = 60.0
# Queues fill, a budget passes, and they empty.
SETTLED_S = 8.0
SERVICE_S = 0.5


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """That short queues are let grow once in a while has tests of its own: `test_tries`."""
    monkeypatch.setattr(shedding, "FIRST_TRY_S", np.inf)
    monkeypatch.setattr(shedding, "TRY_AFTER", np.inf)


@contextmanager
def protected(by: str) -> Iterator[None]:
    """As it is; or "nothing": nobody is refused early; or "always": also where no queue stands, none may form."""
    with pytest.MonkeyPatch.context() as patch:
        if by == "nothing":
            patch.setattr(Shedding, "turned_away", lambda *_, **__: None)
        if by == "always":
            patch.setattr(Shedding, "closed_ms", lambda _, load: float(load.pending >= load.concurrency))
        yield


def one_node(slots: int, *, p95_ms: float = 510.0, budget_ms: float = 2500.0) -> World:
    device = a_device("n", an_expert(p50_ms=SERVICE_S * 1e3, p95_ms=p95_ms), concurrency=slots, queue_limit=1000)
    task = TaskClass("a", budget=BudgetRequest(None, budget_ms), deadline_s=10.0)
    return a_world((device, 1), tasks=(task,), gateway=WIDE)


def at_times(times: float, slots: int, *, by: str = "", p95_ms: float = 510.0, seconds: float = SECONDS) -> Outcome:
    world = one_node(slots, p95_ms=p95_ms)
    mean_s = world.devices["n"].experts[0].mean_ms / 1e3
    rate_per_s = times * slots / mean_s
    with protected(by):
        return simulate(world, a_load(rate_per_s, int(rate_per_s * seconds)))


def answered_q(outcome: Outcome, from_s: float = SETTLED_S) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (outcome.ends.state_q == CODE["ANSWERED"]) & (
        outcome.ends.at_s_q >= from_s
    )
    return found


def goodput(outcome: Outcome, slots: int, mean_s: float = SERVICE_S) -> float:
    """Of what the slots can do."""
    return float(answered_q(outcome).sum() / ((SECONDS - SETTLED_S) * slots / mean_s))


def wait_ms(outcome: Outcome, quantile: float) -> float:
    """Beside what the node took."""
    waited_q = (outcome.ends.ms_q - outcome.ends.node_ms_q)[answered_q(outcome)]
    return float(np.quantile(waited_q, quantile))


@pytest.mark.parametrize(("times", "slots"), [(10.0, 4), (4.0, 16)])
def test_far_above_the_capacity_nobody_waits_and_as_much_is_done(times: float, slots: int) -> None:
    outcome = at_times(times, slots)
    assert wait_ms(outcome, 0.99) <= 60.0
    assert goodput(outcome, slots) >= 0.93
    refused = outcome.ends.state_q == CODE["OVERLOADED"]
    assert refused.sum() + (outcome.ends.state_q == CODE["ANSWERED"]).sum() == len(refused)


@pytest.mark.parametrize(("times", "slots"), [(10.0, 4), (4.0, 16)])
def test_control_without_that_they_wait_for_all_of_their_time(times: float, slots: int) -> None:
    assert wait_ms(at_times(times, slots, by="nothing"), 0.5) > 1200.0


@pytest.mark.parametrize("times", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("p95_ms", [510.0, 1000.0])
def test_the_nearer_demand_is_to_capacity_the_longer_the_queue_and_goodput_stays(times: float, p95_ms: float) -> None:
    shed, kept = (at_times(times, 4, by=by, p95_ms=p95_ms) for by in ("", "nothing"))
    assert answered_q(shed).sum() >= 0.93 * answered_q(kept).sum()
    assert wait_ms(shed, 0.5) <= 0.8 * wait_ms(kept, 0.5)


def test_with_one_slot_one_may_wait() -> None:
    outcome = at_times(10.0, 1)
    assert wait_ms(outcome, 0.99) <= 1.1 * SERVICE_S * 1e3
    assert goodput(outcome, 1) >= 0.93
    assert wait_ms(at_times(10.0, 1, by="nothing"), 0.5) > 1.8 * SERVICE_S * 1e3


@pytest.mark.parametrize("times", [0.5, 0.9, 1.0])
def test_within_capacity_hardly_anybody_is_refused_for_it(times: float) -> None:
    shed, kept, always = (at_times(times, 4, by=by) for by in ("", "nothing", "always"))
    assert answered_q(shed, 0.0).sum() >= 0.98 * answered_q(kept, 0.0).sum()
    # What is right under overload is wrong here.
    assert answered_q(always, 0.0).sum() < 0.92 * answered_q(kept, 0.0).sum() or times == 0.5


def bursts(size: int, every_s: float) -> Load:
    """So many at once, and nothing in between."""
    at_s_q = np.repeat(np.arange(0.0, SECONDS, every_s), size)
    return Load(at_s_q, np.zeros(len(at_s_q), dtype=np.intp))


@pytest.mark.parametrize(("size", "every_s"), [(12, 2.0), (60, 3.0)])
def test_bursts_may_use_all_of_their_time(size: int, every_s: float) -> None:
    """Also those that are larger than what can be done in time, again and again: between them nodes are idle."""
    load, ends = bursts(size, every_s), {}
    for by in ("", "nothing", "always"):
        with protected(by):
            ends[by] = simulate(one_node(4), load).ends.state_q
    assert (ends[""] == ends["nothing"]).all()
    assert (ends["always"] == CODE["ANSWERED"]).sum() < 0.7 * (ends[""] == CODE["ANSWERED"]).sum()


def test_overload_that_ends_is_forgotten() -> None:
    """Ten times the capacity for ten seconds, then a pause, then a burst: that is served as the first one was."""
    rng = np.random.default_rng(3)
    crowd_s_q = np.cumsum(rng.exponential(1.0 / 80.0, 800))
    at_s_q = np.concatenate([crowd_s_q, np.full(12, crowd_s_q[-1] + 12.0)])
    for by, least in (("", 12), ("always", 0)):
        with protected(by):
            outcome = simulate(one_node(4), Load(at_s_q, np.zeros(len(at_s_q), dtype=np.intp)))
        served = int((outcome.ends.state_q[-12:] == CODE["ANSWERED"]).sum())
        assert served == 12 if least else served < 12


def two_classes(*, budgets_ms: tuple[float, float], p50s_ms: tuple[float, float]) -> World:
    """Two kinds of requests to one node with four slots, equally many of each."""
    experts = [an_expert(name, name, p50_ms=ms, p95_ms=1.1 * ms) for name, ms in zip("ab", p50s_ms, strict=True)]
    device = a_device("n", *experts, concurrency=4, queue_limit=1000)
    tasks = tuple(
        TaskClass(name, budget=BudgetRequest(None, ms), deadline_s=60.0)
        for name, ms in zip("ab", budgets_ms, strict=True)
    )
    return a_world((device, 1), tasks=tasks, gateway=WIDE)


def shares(world: World, rate_per_s: float, *, by: str = "") -> tuple[float, float]:
    """Part of each kind's requests that is answered."""
    with protected(by):
        outcome = simulate(world, a_load(rate_per_s, int(rate_per_s * SECONDS), tasks=2))
    answered, kind_q = answered_q(outcome), outcome.ends.task_q
    late_q = outcome.ends.at_s_q >= SETTLED_S
    first, second = (float(answered[late_q & (kind_q == kind)].mean()) for kind in (0, 1))
    return first, second


def test_who_has_more_time_does_not_take_the_place_of_who_has_less() -> None:
    """Of a tenant whose requests may take a second, and one whose may take twenty."""
    world = two_classes(budgets_ms=(1000.0, 20_000.0), p50s_ms=(200.0, 200.0))
    hurried, patient = shares(world, 80.0)
    assert hurried >= 0.7 * patient > 0.1
    hurried, patient = shares(world, 80.0, by="nothing")
    assert hurried < 0.05 * patient


def test_long_requests_are_not_refused_for_their_length() -> None:
    world = two_classes(budgets_ms=(8000.0, 8000.0), p50s_ms=(100.0, 1500.0))
    short, long = shares(world, 30.0)
    assert long >= 0.9 * short > 0.1
    # At the end of a long queue only short ones are still in time.
    short, long = shares(world, 30.0, by="nothing")
    assert long < 0.2 * short


def test_of_several_nodes_all_are_kept_busy_and_short() -> None:
    kinds = [
        a_device(name, an_expert(energy_j=joules, p50_ms=500.0, p95_ms=510.0), concurrency=4, queue_limit=1000)
        for name, joules in (("cheap", 0.1), ("dear", 5.0))
    ]
    task = TaskClass("a", budget=BudgetRequest(None, 2500.0), deadline_s=10.0)
    world = a_world((kinds[0], 1), (kinds[1], 2), tasks=(task,), gateway=WIDE)
    outcome = simulate(world, a_load(120.0, int(120.0 * SECONDS)))
    assert wait_ms(outcome, 0.99) <= 60.0
    assert goodput(outcome, 12) >= 0.93
    with protected("nothing"):
        assert wait_ms(simulate(world, a_load(120.0, int(120.0 * SECONDS))), 0.5) > 1200.0


def test_a_dear_node_with_room_is_asked_before_anybody_is_refused() -> None:
    """Twice what the cheap node does, where the dear one does as much again: nobody need be refused."""
    kinds = [
        a_device(name, an_expert(energy_j=joules, p50_ms=500.0, p95_ms=510.0), concurrency=slots, queue_limit=1000)
        for name, joules, slots in (("cheap", 0.1, 4), ("dear", 5.0, 16))
    ]
    task = TaskClass("a", budget=BudgetRequest(None, 2500.0), deadline_s=10.0)
    outcome = simulate(a_world((kinds[0], 1), (kinds[1], 1), tasks=(task,), gateway=WIDE), a_load(20.0, 1200))
    assert (outcome.ends.state_q == CODE["ANSWERED"]).all()


def test_what_may_be_lost_is_less_than_what_counts_as_idle() -> None:
    """Else a queue that is as short as it should be would count as one that stands no more."""
    assert shedding.IDLE_FRACTION < shedding.MOST_IDLE_FRACTION
