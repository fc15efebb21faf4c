"""Plans in force while nodes come and go, evidence arrives, and planning itself fails."""

import asyncio
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from orchestrator.fleet.evidence import tensor_digest
from orchestrator.planning import planner as planner_module
from orchestrator.planning import settling
from orchestrator.planning.make import PlanRejected
from orchestrator.types import Arm
from tests.fakes.live import until
from tests.orchestrator.builders import a_hello, a_task, an_arm, joined
from tests.orchestrator.planning.bench import (
    REFERENCE,
    REFERENCE_DIGEST,
    Bench,
    join_with_evidence,
    outputs_of,
    with_evidence,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SETTLE_S", 0.005)


# ---- binding, at once


async def test_a_first_node_is_served_at_once_by_what_it_announced(bench: Bench) -> None:
    joined(bench.fleet, a_hello("n1"))
    assert bench.standing().plan.certificate.status == "none"
    assert bench.bound() == ["small:v1@n1"]


async def test_without_evidence_the_plan_is_certified_on_what_was_announced(bench: Bench) -> None:
    joined(bench.fleet, a_hello("n1", (an_arm("small"), an_arm("large", energy_j=0.1))))
    await until(bench.certified)
    assert not bench.learned()
    assert len(bench.seconds) == 1


async def test_what_the_announced_model_serves_is_learned_once_evidence_is_there(bench: Bench) -> None:
    join_with_evidence(bench.fleet, "n1", "small", "larger")
    assert not bench.learned()
    await until(bench.learned)
    assert bench.standing().plan.active is not None
    assert {"small:v1@n1", "larger:v1@n1"} >= set(bench.standing().plan.active or ())


async def test_suspicion_binds_again_at_once_and_plans_nothing(bench: Bench) -> None:
    sessions = [joined(bench.fleet, a_hello(name, (an_arm("small", name),))) for name in ("n1", "n2")]
    await until(bench.certified)
    await bench.idle()
    asked, plan = len(bench.executor.asked), bench.standing().plan
    bench.fleet.suspect(sessions[0])
    assert bench.bound() == ["small:v1@n2"]
    assert bench.standing().plan is plan
    bench.fleet.heard(sessions[0])
    assert bench.bound() == ["small:v1@n1", "small:v1@n2"]
    await bench.idle()
    assert len(bench.executor.asked) == asked


async def test_a_plan_made_while_a_node_was_suspected_knows_its_arms(bench: Bench) -> None:
    suspect = joined(bench.fleet, a_hello("n1", (an_arm("small", "n1"),)))
    joined(bench.fleet, a_hello("n2", (an_arm("small", "n2"),)))
    bench.fleet.suspect(suspect)
    await until(bench.certified)
    bench.fleet.heard(suspect)
    assert bench.bound() == ["small:v1@n1", "small:v1@n2"]


async def test_a_task_without_routable_arms_has_no_plan_in_force(bench: Bench) -> None:
    session = joined(bench.fleet, a_hello("n1"))
    await until(bench.certified)
    bench.fleet.drain(session)
    assert bench.planner.standing("digits") is None
    assert bench.planner.standing("unheard-of") is None


# ---- the last certified plan stays


async def test_a_node_that_comes_back_finds_the_certified_plan(bench: Bench) -> None:
    session = join_with_evidence(bench.fleet, "n1", "small", "larger")
    await until(bench.learned)
    await bench.idle()
    plan, asked = bench.standing().plan, len(bench.executor.asked)
    bench.fleet.leave(session)
    assert bench.planner.standing("digits") is None
    joined(bench.fleet, session.hello)
    assert bench.standing().plan is plan
    await bench.idle()
    assert len(bench.executor.asked) == asked
    assert bench.learned()


async def test_a_plan_made_while_its_nodes_were_away_holds_when_they_return(bench: Bench) -> None:
    bench.executor.held = []
    session = join_with_evidence(bench.fleet, "n1", "small", "larger")
    held = bench.executor.held
    await until(lambda: held)
    bench.fleet.leave(session)
    while held:
        held.pop()()
        await bench.idle()
    joined(bench.fleet, session.hello)
    bench.executor.held = None
    await until(bench.learned)


@pytest.mark.parametrize(
    "error",
    [
        PlanRejected("no arm fits the plan's limits"),
        BrokenProcessPool("killed"),
        ValueError("strange evidence"),
        OSError("no more processes"),
        RuntimeError("cannot schedule new futures"),
        MemoryError(),
        KeyError("expert"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_last_certified_plan_stays_in_force_when_planning_fails(bench: Bench, error: Exception) -> None:
    join_with_evidence(bench.fleet, "n1", "small", "larger")
    await until(bench.learned)
    await bench.idle()
    plan, asked = bench.standing().plan, len(bench.executor.asked)
    bench.executor.error = error
    newcomer = join_with_evidence(bench.fleet, "n2", "another")
    await bench.planned(asked + 1)
    assert bench.standing().plan is plan
    assert bench.certified()
    # The planner lives: once planning works again, the next change brings a plan that knows the newcomer.
    bench.executor.error = None
    bench.fleet.change_arms(newcomer, (*newcomer.hello.arms, an_arm("late", "n2")))
    await until(lambda: bench.standing().plan is not plan)
    assert bench.learned()


async def test_a_dead_planning_process_is_replaced(bench: Bench) -> None:
    bench.executor.error = BrokenProcessPool("killed")
    session = joined(bench.fleet, a_hello("n1"))
    await bench.planned(1)
    assert bench.bound() == ["small:v1@n1"]
    bench.executor.error = None
    bench.fleet.change_arms(session, (an_arm("small"), an_arm("other")))
    await until(bench.certified)
    assert bench.executors == 2


async def test_a_planning_process_that_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "PLAN_TIMEOUT_S", 0.02)
    bench.executor.held = []
    session = joined(bench.fleet, a_hello("n1"))
    await bench.planned(1)
    await asyncio.sleep(0.05)
    assert bench.bound() == ["small:v1@n1"]
    bench.executor.held = None
    bench.fleet.change_arms(session, (an_arm("small"), an_arm("other")))
    await until(bench.certified)
    assert bench.executors == 2


# ---- what is planned again, and what is not


async def test_nothing_new_is_not_planned_again(bench: Bench) -> None:
    session = join_with_evidence(bench.fleet, "n1", "small", "larger")
    await until(bench.learned)
    await bench.idle()
    asked = len(bench.executor.asked)
    bench.fleet.change_arms(session, session.hello.arms)
    await bench.idle()
    assert len(bench.executor.asked) == asked


async def test_new_evidence_of_a_known_expert_is_learned_from(bench: Bench) -> None:
    session = join_with_evidence(bench.fleet, "n1", "small", "larger", right=0.3)
    await until(bench.learned)
    await bench.idle()
    before = bench.standing().plan
    hello, evidence = with_evidence("n1", "small", "larger", right=0.99)
    bench.fleet.change_arms(session, hello.arms)
    for tensors in evidence:
        bench.fleet.take_evidence(tensor_digest(tensors), tensors)
    await until(lambda: bench.standing().plan is not before and bench.learned())
    await bench.idle()
    assert bench.standing().plan.model.estimate(np.zeros(64)).quality_r.max() > 0.8


@pytest.mark.parametrize("bad", ["fewer queries", "fewer classes", "negative", "not finite", "one axis"])
async def test_evidence_of_one_expert_that_does_not_fit_spoils_nothing(bench: Bench, bad: str) -> None:
    whole = outputs_of("strange")["outputs"]
    outputs = {
        "fewer queries": whole[:-1],
        "fewer classes": whole[:, :-1],
        "negative": -whole,
        "not finite": whole * np.float32(np.inf),
        "one axis": whole.ravel(),
    }[bad]
    sent = {"outputs": np.ascontiguousarray(outputs)}
    digest = tensor_digest(sent)
    arms: tuple[Arm, ...] = (an_arm("strange", "n2", evidence_digest=digest),)
    joined(bench.fleet, a_hello("n2", arms, tasks=(a_task(reference=REFERENCE_DIGEST),)))
    bench.fleet.take_evidence(digest, sent)
    join_with_evidence(bench.fleet, "n1", "small", "larger")
    await until(bench.learned)
    experts = {expert for route in bench.standing().plan.model.routes for expert in route.experts}
    assert experts == {"small", "larger"}


async def test_a_reference_set_that_nothing_can_be_learned_from_leaves_what_was_announced(bench: Bench) -> None:
    labels = np.full(len(REFERENCE["labels"]), 77)
    reference = {"inputs": REFERENCE["inputs"], "labels": labels}
    digest = tensor_digest(reference)
    sent = outputs_of("small")
    arm = an_arm("small", evidence_digest=tensor_digest(sent))
    joined(bench.fleet, a_hello("n1", (arm,), tasks=(a_task(reference=digest),)))
    bench.fleet.take_evidence(digest, reference)
    bench.fleet.take_evidence(tensor_digest(sent), sent)
    await bench.idle()
    assert bench.bound() == ["small:v1@n1"]
    assert not bench.learned()


async def test_limits_of_the_active_set_are_kept() -> None:
    bench = Bench(max_active=1)
    try:
        join_with_evidence(bench.fleet, "n1", "small", "larger")
        await until(bench.learned)
        assert len(bench.standing().plan.active or ()) == 1
    finally:
        bench.task.cancel()
        await asyncio.gather(bench.task, return_exceptions=True)


async def test_tasks_are_planned_apart(bench: Bench) -> None:
    joined(bench.fleet, a_hello("n1"))
    letters = a_hello("n2", (an_arm("reader", "n2", task="letters"),), tasks=(a_task("letters"),))
    joined(bench.fleet, letters)
    await until(lambda: bench.certified("digits") and bench.certified("letters"))
    assert {snapshot.task for snapshot in bench.executor.asked} == {"digits", "letters"}


# ---- nodes that rest


async def test_a_node_that_rests_is_needed_until_a_certified_plan_does_without(bench: Bench) -> None:
    joined(bench.fleet, a_hello("n1", (an_arm("small", "n1"),)))
    joined(bench.fleet, a_hello("n2", (an_arm("large", "n2", energy_j=0.1),)))
    assert bench.planner.needed() == {"n1", "n2"}
    await until(bench.certified)
    await bench.idle()
    assert bench.planner.needed() == {"n1", "n2"}
    bench.planner.rest(frozenset({"n2"}))
    assert bench.planner.needed() == {"n1", "n2"}
    await until(lambda: bench.planner.needed() == {"n1"})
    # There is no limit that it would break, so a request that wakes it finds it active.
    assert bench.standing().plan.active == frozenset({"small:v1@n1", "large:v1@n2"})
    bench.planner.rest(frozenset())
    await until(lambda: bench.planner.needed() == {"n1", "n2"})


async def test_what_rests_takes_no_place_of_what_is_awake() -> None:
    bench = Bench(max_active=1)
    try:
        join_with_evidence(bench.fleet, "n1", "small")
        join_with_evidence(bench.fleet, "n2", "larger", right=0.99)
        await until(lambda: bench.learned() and bench.planner.needed() == {"n2"})
        bench.planner.rest(frozenset({"n2"}))
        await until(lambda: bench.planner.needed() == {"n1"})
        assert bench.standing().plan.active == frozenset({"small:v1@n1"})
    finally:
        bench.task.cancel()
        await asyncio.gather(bench.task, return_exceptions=True)


async def test_where_no_plan_does_without_the_node_stays_needed(bench: Bench) -> None:
    joined(bench.fleet, a_hello("n1"))
    await until(bench.certified)
    bench.planner.rest(frozenset({"n1"}))
    await bench.planned(2)
    assert bench.planner.needed() == {"n1"}
    assert bench.certified()


# ---- what it costs, and what it may cost


async def test_a_plan_says_its_mode_its_quality_and_what_no_other_set_can_exceed(bench: Bench) -> None:
    join_with_evidence(bench.fleet, "n1", "small", "larger")
    await until(bench.learned)
    certificate = bench.standing().plan.certificate
    assert certificate.mode == "worst_case"
    assert 0.0 < certificate.quality_fraction <= certificate.bound_fraction <= certificate.quality_fraction + 1e-9
    assert certificate.price_per_j == 0.0


async def test_a_limit_on_the_mean_energy_is_planned_as_routed_and_has_a_price() -> None:
    bench = Bench(mean_energy_j=0.02)
    try:
        joined(bench.fleet, a_hello("n1", (an_arm("small", energy_j=0.01), an_arm("large", energy_j=0.1))))
        await until(bench.certified)
        certificate = bench.standing().plan.certificate
        assert certificate.mode == "routed"
        assert bench.executor.asked[-1].mean_energy_j == 0.02
    finally:
        bench.task.cancel()
        await asyncio.gather(bench.task, return_exceptions=True)


@pytest.mark.parametrize(("ratio", "replans"), [(1.05, False), (2.0, True)])
async def test_an_arm_that_costs_something_else_than_planned_is_planned_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ratio: float, replans: bool
) -> None:
    monkeypatch.setattr(planner_module, "DRIFT_CHECK_S", 0.01)
    joined(bench.fleet, a_hello("n1"))
    await until(bench.certified)
    first = bench.standing().plan.plan_id
    state = bench.fleet.board.arms("digits")[0]
    for _ in range(50):
        energy_j = state.arm.energy.energy_j * ratio
        bench.fleet.board.answered(state.index, service_ms=state.arm.p50_ms, energy_j=energy_j)
    if replans:
        await until(lambda: bench.certified() and bench.standing().plan.plan_id != first)
        assert bench.executor.asked[-1].arms[0].energy_j == pytest.approx(state.arm.energy.energy_j * ratio)
        return
    await asyncio.sleep(0.05)
    assert bench.standing().plan.plan_id == first


async def test_a_long_run_budget_is_planned_for_as_soon_as_it_is_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_module, "DRIFT_CHECK_S", 0.01)
    joined(bench.fleet, a_hello("n1", (an_arm("small", energy_j=0.01), an_arm("large", energy_j=0.1))))
    await until(bench.certified)
    assert bench.standing().plan.certificate.mode == "worst_case"
    bench.average_j = 0.02
    await until(lambda: bench.certified() and bench.standing().plan.certificate.mode == "routed")
    assert bench.executor.asked[-1].mean_energy_j == 0.02
