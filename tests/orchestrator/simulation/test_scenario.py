"""Questions: one fleet or two under the same load and luck, and what the difference is worth."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.longrun import LongRun
from orchestrator.simulation.arrivals import Trace
from orchestrator.simulation.chance import Chance, energy_j, service_ms
from orchestrator.simulation.compare import compare
from orchestrator.simulation.figures import summarise
from orchestrator.simulation.load import Kill, Load
from orchestrator.simulation.run import simulate
from orchestrator.simulation.scenario import Arrivals, Question, answer, draw_load, with_budget
from orchestrator.simulation.world import GatewayTraits, TaskClass
from orchestrator.study.errors import StudyError
from orchestrator.types import BudgetRequest
from tests.orchestrator.simulation.worlds import a_device, a_load, a_world, an_expert

ORIN = a_device("orin", idle_w=9.0)
LAPTOP = a_device("laptop", an_expert(energy_j=0.5, p50_ms=30.0, p95_ms=50.0))
WORLD = a_world((ORIN, 2), (LAPTOP, 1), gateway=GatewayTraits(hop_ms=1.0))


def ask(**changes: object) -> Question:
    known: dict[str, object] = {"world": WORLD, "arrivals": Arrivals(60.0, 20.0)}
    return Question(**(known | changes))  # type: ignore[arg-type]


def test_one_fleet_gives_one_answer() -> None:
    found = answer(ask())
    assert found.changed is None
    assert found.base.nodes_total == 3
    assert found.base.all.answered_fraction > 0.9
    assert found.base.all.requests == pytest.approx(1200, rel=0.1)
    assert found.base.idle_unknown == 1
    assert found.base.idle_j == pytest.approx(2 * 9.0 * found.base.duration_s)


def test_two_fleets_see_the_same_load_and_more_nodes_answer_more() -> None:
    found = answer(ask(arrivals=Arrivals(150.0, 20.0), add={"orin": 2}))
    assert found.changed is not None
    assert found.changed.nodes_total == 5
    assert found.changed.all.requests == found.base.all.requests
    better = found.differences["answered_fraction"]
    assert better.sure
    assert better.low > 0.0
    assert found.changed.all.answered_fraction > found.base.all.answered_fraction


def test_common_luck_makes_differences_narrow() -> None:
    """The control: under other luck, the interval of the very same comparison is wider."""
    other = WORLD.add("orin", 1)
    load = a_load(60.0, 2000)
    unlucky = Load(load.at_s_q, load.task_q, seed=5)
    base = simulate(WORLD, load)
    common, apart = (compare(base, simulate(other, one))["mean_ms"] for one in (load, unlucky))
    assert common.high - common.low < apart.high - apart.low


def test_a_fleet_does_not_differ_from_itself() -> None:
    base = simulate(WORLD, a_load(60.0, 800))
    for difference in compare(base, simulate(WORLD, a_load(60.0, 800))).values():
        assert (difference.mean, difference.sure) == (0.0, False)


def test_runs_of_different_loads_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same load"):
        compare(simulate(WORLD, a_load(60.0, 100)), simulate(WORLD, a_load(60.0, 100, seed=1)))


def test_answers_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert answer(ask(add={"orin": 1})) == answer(ask(add={"orin": 1}))
    assert answer(ask()).base.all.p95_ms != answer(ask(seed=1)).base.all.p95_ms


def test_nodes_that_are_added_and_removed_have_names() -> None:
    names = [node.name for node in WORLD.add("orin", 1).remove("laptop", 1).nodes]
    assert names == ["orin-1", "orin-2", "orin-3"]
    assert [node.name for node in WORLD.remove("orin", 1).nodes] == ["orin-1", "laptop-1"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"add": {"nano": 1}}, "there is no device 'nano'"),
        ({"remove": {"orin": 3}}, "has 2 nodes of orin, not 3"),
        ({"remove": {"orin": 2, "laptop": 1}}, "no node would be left"),
        ({"kills": (Kill("orin-9", 1.0),)}, "no node 'orin-9' to kill"),
        ({"arrivals": Arrivals(0.001, 0.001)}, "no request comes"),
        ({"world": a_world((ORIN, 1), tasks=(TaskClass("b"),))}, "no node serves the task b"),
    ],
)
def test_what_cannot_be_asked_is_said(changes: dict[str, object], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        answer(ask(**changes))


def test_tasks_come_by_their_shares_and_are_told_apart() -> None:
    laptop = a_device("laptop", an_expert(), an_expert("reader", "b"))
    world = a_world((laptop, 2), tasks=(TaskClass("a", share=3.0), TaskClass("b", share=1.0)))
    load = draw_load(ask(world=world))
    assert (load.task_q == 0).mean() == pytest.approx(0.75, abs=0.05)
    summary = summarise(world, simulate(world, load))
    assert summary.tasks["a"].requests + summary.tasks["b"].requests == summary.all.requests == len(load.at_s_q)


def test_a_trace_is_taken_as_it_is_or_at_a_rate() -> None:
    trace = Trace(np.linspace(0.0, 9.0, 10), 10.0)
    assert len(Arrivals(None, 30.0, trace=trace).draw(np.random.default_rng(0))) == 30
    assert len(Arrivals(2.0, 30.0, trace=trace).draw(np.random.default_rng(0))) == 60


def test_a_budget_for_every_task_goes_before_its_own() -> None:
    world = a_world((ORIN, 1), tasks=(TaskClass("a", budget=BudgetRequest(5.0, 300.0)),))
    (task,) = with_budget(world, BudgetRequest(None, 100.0), LongRun(0.2)).tasks
    assert (task.budget.max_energy_j, task.budget.max_latency_ms, task.long_run) == (5.0, 100.0, LongRun(0.2))


def test_a_long_run_budget_is_kept_and_without_one_more_is_spent() -> None:
    large = an_expert("large", quality_fraction=0.95, energy_j=1.0)
    world = a_world((a_device("orin", an_expert(), large), 4))
    free = answer(ask(world=world)).base.all
    paced = answer(ask(world=with_budget(world, BudgetRequest(), LongRun(0.4)), arrivals=Arrivals(60.0, 60.0)))
    assert free.energy_j > 0.8
    assert paced.base.all.energy_j == pytest.approx(0.4, rel=0.15)
    assert paced.base.all.quality_fraction < free.quality_fraction


def test_the_warm_up_is_left_out() -> None:
    whole, rest = answer(ask()).base, answer(ask(warm_up_s=10.0)).base
    assert rest.all.requests == pytest.approx(whole.all.requests / 2, rel=0.15)
    assert rest.active_j == whole.active_j


def test_luck_has_the_announced_quantiles_and_means() -> None:
    expert = an_expert(p50_ms=20.0, p95_ms=40.0, energy_j=0.5, energy_sigma=0.3)
    chance = Chance(3, 20_000)
    luck = [chance.of(q, 0) for q in range(20_000)]
    ms_q = np.array([service_ms(expert, one) for one in luck])
    joules_q = np.array([energy_j(expert, ms, one) for ms, one in zip(ms_q.tolist(), luck, strict=True)])
    assert np.quantile(ms_q, (0.5, 0.95)) == pytest.approx((20.0, 40.0), rel=0.03)
    assert ms_q.mean() == pytest.approx(expert.mean_ms, rel=0.02)
    assert joules_q.mean() == pytest.approx(0.5, rel=0.03)
    assert chance.of(0, 1) == Chance(3, 5).of(0, 1) != chance.of(0, 2)
