"""Nodes that stay awake, for all tasks together: against every choice of nodes, and against tasks that choose alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection import awake as awake_module
from optimizer.selection.arms import Arm, Limits, Routing
from optimizer.selection.awake import Watch, keep_awake
from optimizer.selection.power import Power, Step, Terms
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import BestOf
from tests.optimizer.selection.problems import equal_weights

NODES = tuple(f"n{k}" for k in range(5))


def task_on(rng: np.random.Generator, nodes: tuple[str, ...], limits: Limits, routing: Routing | None) -> Problem:
    arms = tuple(Arm(f"a{n}@{node}", f"a{n}", node, float(rng.uniform(0.5, 2.0)), 1.0) for n, node in enumerate(nodes))
    utility = BestOf(rng.random((6, len(arms))))
    return Problem(arms, utility, equal_weights(utility), limits, routing=routing)


def house(seed: int) -> tuple[dict[str, Watch], dict[str, Power]]:
    """Three tasks on some of five nodes, of which some sleep, some may not, and some change dearly."""
    rng = np.random.default_rng(seed)
    watches = {}
    for number, limits in enumerate((Limits(energy_j=4.0), Limits(active=2), Limits())):
        nodes = tuple(rng.choice(NODES, size=6))
        routing = Routing(0.9) if number == 2 else None
        watches[f"t{number}"] = Watch(task_on(rng, nodes, limits, routing), float(rng.uniform(0.05, 2.0)))
    powers = {
        node: Power(
            float(rng.uniform(2.0, 20.0)),
            1.0,
            float(rng.uniform(0.0, 400.0)),
            3.0,
            awake=bool(rng.random() < 0.6),
            may_sleep=bool(rng.random() < 0.8),
            fall_j=float(rng.uniform(0.0, 400.0)),
            fall_s=2.0,
        )
        for node in NODES[:-1]
    }
    return watches, powers


def worth_per_s(
    watches: Mapping[str, Watch], powers: Mapping[str, Power], terms: Terms, nodes: frozenset[str]
) -> float:
    """What a choice is worth, written down once more: joules of a whole horizon that ends as it began."""
    worth = 0.0
    for watch in watches.values():
        kept = [n for n, arm in enumerate(watch.problem.arms) if arm.node in nodes]
        found = solve(watch.problem.take(kept)) if kept else None
        if found is None or found.status is Status.INFEASIBLE:
            return -math.inf
        worth += watch.rate_per_s * found.objective
    joules = 0.0
    for node, power in powers.items():
        turn_j = power.fall_j + power.wake_j - power.sleep_w * (power.fall_s + power.wake_s)
        if node in nodes:
            joules += (power.idle_w - power.sleep_w) * terms.horizon_s
        if (node in nodes) != power.awake:
            joules += max(0.0, turn_j)
    return worth - terms.price_per_j * joules / terms.horizon_s


def choices(powers: Mapping[str, Power]) -> list[frozenset[str]]:
    free = [node for node, power in powers.items() if not power.awake or power.may_sleep]
    always = frozenset(NODES) - frozenset(free)
    return [always | frozenset(some) for size in range(len(free) + 1) for some in itertools.combinations(free, size)]


@pytest.mark.parametrize("price", [0.0, 1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_best_of_every_choice_of_nodes(seed: int, price: float) -> None:
    watches, powers = house(seed)
    terms = Terms(price_per_j=price, horizon_s=60.0)
    vigil = keep_awake(watches, powers, terms)
    best = max(worth_per_s(watches, powers, terms, nodes) for nodes in choices(powers))
    assert vigil.objective == pytest.approx(best, abs=1e-9)
    assert vigil.bound == pytest.approx(vigil.objective, abs=1e-8)
    for task, watch in watches.items():
        assert {watch.problem.arms[n].node for n in vigil.solutions[task].active} <= vigil.awake
    # Idle watts count once, however many tasks a node serves.
    assert vigil.idle_w == pytest.approx(sum(powers[n].idle_w - powers[n].sleep_w for n in vigil.awake if n in powers))


def one_arm_each(*quality: tuple[str, float]) -> Problem:
    arms = tuple(Arm(f"e@{node}", "e", node, 1.0, 1.0) for node, _ in quality)
    return Problem(arms, BestOf(np.array([[value for _, value in quality]])), np.ones(1), Limits())


def alone(watches: Mapping[str, Watch], powers: Mapping[str, Power], terms: Terms) -> frozenset[str]:
    """Every task by itself: a node sleeps where none wants it."""
    wanted = [keep_awake({task: watch}, powers, terms).awake for task, watch in watches.items()]
    return frozenset().union(*wanted)


def test_separate_decisions_keep_two_nodes_awake_where_one_serves_both() -> None:
    """`hub` is a little dearer than either node by itself, and cheaper than both together."""
    x = Watch(one_arm_each(("left", 0.9), ("hub", 0.9)), 1.0)
    y = Watch(one_arm_each(("right", 0.9), ("hub", 0.9)), 1.0)
    powers = {"left": Power(10.0), "right": Power(10.0), "hub": Power(11.0)}
    terms, watches = Terms(price_per_j=0.01), {"x": x, "y": y}
    assert alone(watches, powers, terms) == {"left", "right"}
    together = keep_awake(watches, powers, terms)
    assert together.awake == {"hub"}
    assert together.idle_w == 11.0
    lost = worth_per_s(watches, powers, terms, frozenset({"left", "right"}))
    assert together.objective == pytest.approx(lost + 0.01 * 9.0)


def test_separate_decisions_let_a_node_sleep_that_pays_for_two_tasks_together() -> None:
    """Neither task's gain on `hub` is worth its watts; both gains together are."""
    x = Watch(one_arm_each(("small", 0.5), ("hub", 0.56)), 1.0)
    y = Watch(one_arm_each(("small", 0.5), ("hub", 0.56)), 1.0)
    powers = {"small": Power(1.0, may_sleep=False), "hub": Power(10.0)}
    terms, watches = Terms(price_per_j=0.01), {"x": x, "y": y}
    assert alone(watches, powers, terms) == {"small"}
    together = keep_awake(watches, powers, terms)
    assert together.awake == {"small", "hub"}
    assert together.objective > worth_per_s(watches, powers, terms, frozenset({"small"})) + 0.01


def test_a_sleep_shorter_than_its_break_even_time_is_not_begun() -> None:
    watches = {"x": Watch(one_arm_each(("a", 0.5), ("b", 0.5)), 1.0)}
    a, b = Power(1.0, may_sleep=False), Power(21.0, 1.0, wake_j=330.0, wake_s=20.0, fall_j=100.0, fall_s=10.0)
    assert (b.turn_j, b.break_even_s) == (400.0, 20.0)
    for horizon_s, awake in ((19.0, {"a", "b"}), (21.0, {"a"})):
        assert keep_awake(watches, {"a": a, "b": b}, Terms(1.0, horizon_s)).awake == awake
        # The control: without what the turn takes it sleeps at once.
        assert keep_awake(watches, {"a": a, "b": replace(b, wake_j=0.0, fall_j=0.0)}, Terms(1.0, horizon_s)).awake == {
            "a"
        }
    assert Power(5.0, 5.0).break_even_s == math.inf


def test_a_node_is_woken_only_for_what_pays_for_the_way_back_too() -> None:
    """0.1 of quality at one request a second, 1 W of idling: 100 s make 10 − 1, 8 of which waking takes."""
    watches = {"x": Watch(one_arm_each(("a", 0.5), ("b", 0.6)), 1.0)}
    b = Power(1.0, wake_j=800.0, awake=False)
    a = Power(1.0, may_sleep=False)
    assert keep_awake(watches, {"a": a, "b": b}, Terms(0.01, 100.0)).awake == {"a", "b"}
    assert keep_awake(watches, {"a": a, "b": replace(b, fall_j=200.0)}, Terms(0.01, 100.0)).awake == {"a"}


def test_actions_wake_first_and_drain_before_they_suspend() -> None:
    watches, _ = house(0)
    watches = {"t1": Watch(one_arm_each(*((node, 0.5) for node in NODES)), 1.0)}
    dear = {node: Power(100.0, 1.0, 5.0, 7.0, fall_j=3.0, fall_s=2.0) for node in NODES}
    cheap = dear | {"n3": Power(1.0, 1.0, 12.0, 7.0, awake=False)}
    vigil = keep_awake(watches, cheap, Terms(price_per_j=1.0))
    assert vigil.awake == {"n3"}
    assert [action.step for action in vigil.actions] == [Step.WAKE] + [Step.DRAIN] * 4 + [Step.SUSPEND] * 4
    assert [action.after_s for action in vigil.actions] == [7.0] + [7.0] * 4 + [9.0] * 4
    assert [action.energy_j for action in vigil.actions] == [12.0] + [0.0] * 4 + [3.0] * 4


def test_nodes_that_may_not_sleep_stay_and_slow_ones_are_not_woken() -> None:
    watches = {"x": Watch(one_arm_each(*((node, 0.1 * n) for n, node in enumerate(NODES))), 10.0)}
    powers = {node: Power(50.0, wake_s=30.0, awake=node == "n0", may_sleep=node != "n0") for node in NODES}
    vigil = keep_awake(watches, powers, Terms(price_per_j=1e-9, max_wake_s=5.0))
    assert vigil.awake == {"n0"}
    assert vigil.actions == ()
    assert len(keep_awake(watches, powers, Terms(price_per_j=1e-9)).awake) == 2


def test_a_task_that_has_no_set_anywhere_has_no_say() -> None:
    watches, powers = house(1)
    hopeless = replace(watches["t0"], problem=replace(watches["t0"].problem, limits=Limits(energy_j=0.0)))
    terms = Terms(price_per_j=0.01)
    with_it = keep_awake(watches | {"t9": hopeless}, powers, terms)
    assert with_it.solutions["t9"].status is Status.INFEASIBLE
    assert with_it.awake == keep_awake(watches, powers, terms).awake
    nobody = keep_awake({"t9": hopeless}, powers, terms)
    assert (nobody.solutions["t9"].status, nobody.awake) == (Status.INFEASIBLE, frozenset())


def test_a_search_that_is_stopped_keeps_a_valid_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    watches, powers = house(3)
    terms = Terms(price_per_j=0.02, horizon_s=60.0)
    best = keep_awake(watches, powers, terms).objective
    monkeypatch.setattr(awake_module, "MAX_BOXES", 1)
    stopped = keep_awake(watches, powers, terms)
    assert stopped.objective <= best + 1e-9 <= stopped.bound + 2e-9


def test_many_nodes_of_one_kind_take_few_boxes() -> None:
    nodes = [(f"m{n}", 0.7) for n in range(40)]
    watches = {task: Watch(one_arm_each(*nodes), 1.0) for task in ("x", "y")}
    vigil = keep_awake(watches, {node: Power(10.0) for node, _ in nodes}, Terms(0.001))
    assert len(vigil.awake) == 1
    assert vigil.bound == pytest.approx(vigil.objective)


@pytest.mark.parametrize("terms", [Terms(-1.0), Terms(1.0, 0.0)])
def test_terms_that_cannot_be_meant_are_refused(terms: Terms) -> None:
    with pytest.raises(ProblemError):
        keep_awake(*house(0), terms)


def test_a_rate_of_nothing_is_refused() -> None:
    watches, powers = house(0)
    with pytest.raises(ProblemError, match="rate of requests"):
        keep_awake({"x": replace(watches["t0"], rate_per_s=0.0)}, powers, Terms(1.0))


def test_a_node_that_draws_more_asleep_than_awake_is_refused() -> None:
    watches, _ = house(0)
    with pytest.raises(ProblemError, match="sleeping cannot take more"):
        keep_awake(watches, {"n0": Power(1.0, 2.0)}, Terms(1.0))
