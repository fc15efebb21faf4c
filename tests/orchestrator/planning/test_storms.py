"""Nodes that come many at once: they are bound and planned for together."""

import asyncio

import pytest

from orchestrator.planning import planner as planner_module
from tests.fakes.live import until
from tests.orchestrator.builders import a_hello, joined
from tests.orchestrator.planning.bench import Bench


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "SETTLE_S", 0.005)


@pytest.mark.parametrize("together", [True, False])
async def test_nodes_that_come_at_once_are_bound_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Binding takes the longer the more arms there are; one for each node that comes would hold up all requests."""
    monkeypatch.setattr(planner_module, "BIND_AT_ONCE_S", 0.0 if together else 60.0)
    monkeypatch.setattr(planner_module, "BIND_FRACTION", 1e-3)
    bound: list[None] = []
    original = bench.planner.rebind

    def counted() -> None:
        bound.append(None)
        original()

    monkeypatch.setattr(bench.planner, "rebind", counted)
    for number in range(40):
        joined(bench.fleet, a_hello(f"n{number}"))
    # Control: without putting off, one binding for each.
    assert (len(bound) <= 3) == together
    assert (len(bound) == 40) == (not together)
    assert bench.bound(), "the first is served at once"
    await until(lambda: len(bench.bound()) == 40)


async def test_arms_that_are_gone_are_not_offered_while_binding_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [joined(bench.fleet, a_hello(name)) for name in ("n1", "n2")]
    monkeypatch.setattr(planner_module, "BIND_AT_ONCE_S", 0.0)
    monkeypatch.setattr(planner_module, "BIND_FRACTION", 1e-6)
    bench.planner.rebind()
    bench.fleet.leave(sessions[0])
    assert len(bench.bound()) == 2, "binding did not wait: this shows nothing"
    table = bench.standing().table
    offered = dict(zip((bound.name for bound in table.bound), table._availability(slice(None)), strict=True))
    assert offered == {"small:v1@n1": False, "small:v1@n2": True}
    bench.fleet.leave(sessions[1])
    assert bench.planner.standing("digits") is None


async def test_a_storm_is_planned_for_once_it_is_over_or_has_lasted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_module, "SETTLE_S", 0.05)
    for number in range(10):
        joined(bench.fleet, a_hello(f"n{number}"))
        await asyncio.sleep(0.01)
    await until(bench.certified)
    assert len(bench.executor.asked) == 1
    monkeypatch.setattr(planner_module, "MAX_SETTLE_S", 0.1)
    for number in range(10, 40):
        joined(bench.fleet, a_hello(f"n{number}"))
        await asyncio.sleep(0.01)
    assert len(bench.executor.asked) > 1, "a storm that does not end is planned for all the same"
