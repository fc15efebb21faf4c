"""Nodes that come many at once: they are bound and planned for together."""

import asyncio

import pytest

from orchestrator.planning import planner as planner_module
from orchestrator.planning import settling
from tests.fakes.live import until
from tests.orchestrator.builders import a_hello, an_arm, joined
from tests.orchestrator.planning.bench import Bench, join_with_evidence


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SETTLE_S", 0.005)


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
    monkeypatch.setattr(settling, "SETTLE_S", 0.05)
    for number in range(10):
        joined(bench.fleet, a_hello(f"n{number}"))
        await asyncio.sleep(0.01)
    await until(bench.certified)
    assert len(bench.executor.asked) == 1
    monkeypatch.setattr(settling, "MAX_SETTLE_S", 0.1)
    for number in range(10, 40):
        joined(bench.fleet, a_hello(f"n{number}"))
        await asyncio.sleep(0.01)
    assert len(bench.executor.asked) > 1, "a storm that does not end is planned for all the same"


async def test_a_plan_that_has_lost_a_node_is_made_anew_without_patience(bench: Bench) -> None:
    await planned_for(bench, "n1", "n2")
    joined(bench.fleet, a_hello("n3"))
    assert not bench.planner._bereft(), "nobody has gone"
    await until(lambda: "n3" in (bench.standing().plan.needed or ()))
    bench.fleet.leave(bench.fleet.sessions["n3"])
    assert bench.planner._bereft()
    await until(lambda: not bench.planner._bereft())
    assert bench.standing().plan.needed == frozenset({"n1", "n2"})


# ---- routes that stay


async def planned_for(bench: Bench, *nodes: str) -> None:
    """These nodes have come, and the plan in force is made for all of them."""
    for node in nodes:
        joined(bench.fleet, a_hello(node, (an_arm("small", node), an_arm("large", node, energy_j=0.1))))
    await until(lambda: bench.certified() and len(bench.standing().plan.active or ()) == 2 * len(nodes))
    await bench.idle()


async def test_a_node_whose_arms_wait_for_the_next_plan_changes_no_route(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_module, "BIND_AT_ONCE_S", 60.0)
    await planned_for(bench, "n1", "n2")
    bench.executor.held = []
    table = bench.standing().table
    joined(bench.fleet, a_hello("n3"))
    assert bench.standing().table is table
    assert len(table.bound) == 4
    # Control: a node of the plan that goes does, at once, and so does one that comes back with other figures.
    bench.fleet.leave(bench.fleet.sessions["n2"])
    fewer = bench.standing().table
    assert {bound.name for bound in fewer.bound} == {"small:v1@n1", "large:v1@n1"}
    joined(bench.fleet, a_hello("n2", (an_arm("small", "n2", energy_j=0.5), an_arm("large", "n2"))))
    assert len(bench.standing().table.bound) == 4
    bench.fleet.change_arms(bench.fleet.sessions["n2"], (an_arm("small", "n2", energy_j=0.7), an_arm("large", "n2")))
    assert bench.standing().table is not fewer
    assert bench.standing().table.footing != table.footing


async def test_longer_routes_move_to_the_arm_that_has_become_the_thriftiest(bench: Bench) -> None:
    for node in ("n1", "n2"):
        join_with_evidence(bench.fleet, node, "small", "larger")
    await until(lambda: bench.learned() and len(bench.standing().plan.active or ()) == 4)
    await bench.idle()
    longer = [bound for bound in bench.standing().table.bound if bound.experts > 1]
    assert longer, "there is no longer route: this shows nothing"
    before = {bound.arms for bound in longer}
    board = bench.fleet.board
    for index in (board.index_of("small:v1@n1"), board.index_of("larger:v1@n1")):
        for _ in range(40):
            board.answered(index or 0, service_ms=500.0, energy_j=50.0)
    table = bench.standing().table
    bench.planner.rebind()
    assert bench.standing().table is not table
    assert {bound.arms for bound in bench.standing().table.bound if bound.experts > 1} != before
