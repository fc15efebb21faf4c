"""Events: nobody is lost, queues are as long as theory has them, nodes die, and equal seeds give equal runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.longrun import LongRun
from orchestrator.simulation.load import Kill, Load
from orchestrator.simulation.outcome import CODE, Ends, Outcome
from orchestrator.simulation.run import simulate
from orchestrator.simulation.world import GatewayTraits, TaskClass
from orchestrator.types import BudgetRequest, OnInfeasible
from tests.orchestrator.simulation.worlds import (
    PATIENT,
    WIDE_OPEN,
    a_device,
    a_load,
    a_world,
    an_expert,
    erlang_c_wait_s,
    exponential_ms,
)

FAST = a_device("gpu", an_expert("small", p50_ms=5.0, p95_ms=9.0, energy_j=1.0), concurrency=2, queue_limit=3)
SLOW = a_device("orin", an_expert("small"), an_expert("large", quality_fraction=0.9, p50_ms=60.0, p95_ms=90.0))
TWO_TASKS = a_device("laptop", an_expert("small"), an_expert("reader", "b", energy_j=None), queue_limit=2)


def counts(outcome: Outcome) -> dict[str, int]:
    return {state: int((outcome.ends.state_q == code).sum()) for state, code in CODE.items()}


def same(one: Outcome, other: Outcome) -> bool:
    return (
        np.array_equal(one.ends.state_q, other.ends.state_q)
        and np.array_equal(one.ends.ms_q, other.ends.ms_q, equal_nan=True)
        and np.array_equal(one.ends.energy_j_q, other.ends.energy_j_q)
    )


@settings(max_examples=25, deadline=None)
@given(
    rate_per_s=st.floats(5.0, 400.0),
    max_latency_ms=st.floats(5.0, 500.0),
    max_running=st.integers(1, 40),
    max_attempts=st.integers(1, 3),
    policy=st.sampled_from(OnInfeasible),
    killed_s=st.floats(0.0, 2.0),
    seed=st.integers(0, 2**31),
)
def test_every_request_ends_exactly_once_and_no_joule_is_lost(
    rate_per_s: float,
    max_latency_ms: float,
    max_running: int,
    max_attempts: int,
    policy: OnInfeasible,
    killed_s: float,
    seed: int,
) -> None:
    tasks = (
        TaskClass("a", budget=BudgetRequest(0.8, max_latency_ms, policy), long_run=LongRun(0.2)),
        TaskClass("b", budget=BudgetRequest(None, max_latency_ms), deadline_s=0.3),
    )
    traits = GatewayTraits(max_running=max_running, max_queued=5, max_attempts=max_attempts, suspect_after_s=0.2)
    world = a_world((FAST, 1), (SLOW, 2), (TWO_TASKS, 1), tasks=tasks, gateway=traits)
    kills = (Kill("gpu-1", killed_s), Kill("orin-2", 2.0 * killed_s, silent=True))
    outcome = simulate(world, a_load(rate_per_s, 300, tasks=2, seed=seed, kills=kills))
    ended = counts(outcome)
    assert ended["OPEN"] == 0
    assert sum(ended.values()) == 300
    assert all(not (m.running or m.on_the_way or any(w.open for w in m.waiting)) for m in outcome.machines)
    assert sum(m.active_j for m in outcome.machines) == pytest.approx(outcome.ends.energy_j_q.sum())
    assert np.isfinite(outcome.ends.ms_q).all()


def test_an_end_that_comes_twice_is_an_error() -> None:
    ends = Ends(np.zeros(1), np.zeros(1, dtype=np.intp))
    ends.end(0, "ANSWERED", 1.0)
    with pytest.raises(ValueError, match="ends twice"):
        ends.end(0, "OVERLOADED", 1.0)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.6), (3, 0.7)])
def test_exponential_service_waits_as_erlang_says(servers: int, busy: float) -> None:
    expert = an_expert(samples_ms=exponential_ms(20.0), p50_ms=14.0, p95_ms=60.0)
    device = a_device("n", expert, concurrency=servers, queue_limit=65_536)
    rate_per_s = busy * servers / 0.020
    outcome = simulate(a_world((device, 1), tasks=(PATIENT,), gateway=WIDE_OPEN), a_load(rate_per_s, 30_000))
    waited_ms = (outcome.ends.ms_q - outcome.ends.node_ms_q)[1000:].mean()
    assert waited_ms == pytest.approx(erlang_c_wait_s(rate_per_s, 0.020, servers) * 1e3, rel=0.1)
    assert outcome.machines[0].busy_s / outcome.until_s / servers == pytest.approx(busy, rel=0.03)


def test_service_that_never_varies_waits_half_as_long() -> None:
    """Pollaczek and Khinchine: with constant service the wait is rho * s / (2 * (1 - rho))."""
    device = a_device("n", an_expert(p50_ms=20.0, p95_ms=20.0), queue_limit=65_536)
    outcome = simulate(a_world((device, 1), tasks=(PATIENT,), gateway=WIDE_OPEN), a_load(35.0, 20_000))
    waited_ms = (outcome.ends.ms_q - outcome.ends.node_ms_q)[1000:].mean()
    assert waited_ms == pytest.approx(0.7 * 20.0 / (2.0 * 0.3), rel=0.07)


def test_without_queueing_nobody_waits() -> None:
    """The control of the two tests above: without queues the formulas do not hold."""
    device = a_device("n", an_expert(p50_ms=20.0, p95_ms=20.0), queue_limit=65_536)
    world = a_world((device, 1), tasks=(PATIENT,), gateway=WIDE_OPEN)
    outcome = simulate(world, a_load(35.0, 2000, queueing=False))
    assert outcome.ends.ms_q == pytest.approx(20.0)


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    world = a_world((FAST, 1), (SLOW, 2))
    assert same(simulate(world, a_load(60.0, 500)), simulate(world, a_load(60.0, 500)))
    other = a_load(60.0, 500)
    assert not same(simulate(world, a_load(60.0, 500)), simulate(world, Load(other.at_s_q, other.task_q, 7)))


def test_what_a_dead_node_ran_is_answered_elsewhere() -> None:
    world = a_world((a_device("orin"), 2))
    outcome = simulate(world, a_load(30.0, 600, kills=(Kill("orin-1", 5.0),)))
    dead, alive = outcome.machines
    assert dead.died_s == 5.0
    assert alive.answered > dead.answered > 0
    after_q = outcome.ends.at_s_q > 5.0
    assert (outcome.ends.state_q[after_q] == CODE["ANSWERED"]).mean() > 0.9


def test_a_death_without_retries_is_a_failure() -> None:
    """The control: with one attempt the work of the dead node is lost."""
    traits = GatewayTraits(max_attempts=1)
    device = a_device("orin", an_expert(p50_ms=200.0, p95_ms=210.0))
    load = a_load(9.0, 100, kills=(Kill("orin-1", 3.0), Kill("orin-2", 3.0)))
    outcome = simulate(a_world((device, 2), gateway=traits), load)
    assert counts(outcome)["ATTEMPTS_FAILED"] > 0


def test_a_silent_node_is_noticed_when_patience_ends_and_a_broken_stream_at_once() -> None:
    world = a_world((a_device("orin"), 2), gateway=GatewayTraits(suspect_after_s=0.4))
    broken, silent = (
        simulate(world, a_load(20.0, 300, kills=(Kill("orin-1", 5.0, silent=silent),))) for silent in (False, True)
    )
    assert (broken.ends.state_q == CODE["ANSWERED"]).all()
    assert (silent.ends.state_q == CODE["ANSWERED"]).all()
    assert silent.ends.ms_q.max() > 150.0 > broken.ends.ms_q.max()
    after_q = silent.ends.at_s_q > 6.0
    assert silent.ends.attempts_q[after_q].max() == 1


def test_a_silent_node_that_is_the_last_is_gone_when_its_lease_ends() -> None:
    world = a_world((a_device("orin"), 1), gateway=GatewayTraits(lease_s=2.0))
    outcome = simulate(world, a_load(20.0, 200, kills=(Kill("orin-1", 5.0, silent=True),)))
    at_s_q, state_q = outcome.ends.at_s_q, outcome.ends.state_q
    assert (state_q[at_s_q > 7.0] == CODE["NO_NODE"]).all()
    assert set(state_q[(at_s_q > 5.0) & (at_s_q < 6.5)].tolist()) <= {
        CODE["DEADLINE_EXCEEDED"],
        CODE["ATTEMPTS_FAILED"],
    }


def test_a_full_gateway_refuses_and_lets_in_who_waited() -> None:
    traits = GatewayTraits(max_running=1, max_queued=2, hop_ms=0.0)
    device = a_device("orin", an_expert(p50_ms=50.0, p95_ms=50.0))
    load = Load(np.array([0.0, 0.001, 0.002, 0.003, 0.004]), np.zeros(5, dtype=np.intp))
    outcome = simulate(a_world((device, 1), gateway=traits), load)
    assert counts(outcome)["OVERLOADED"] == 2
    assert outcome.ends.ms_q[:3] == pytest.approx([50.0, 99.0, 148.0])


def test_a_long_line_of_requests_that_nothing_fits_is_worked_off_at_once() -> None:
    device = a_device("orin", an_expert(p50_ms=50.0, p95_ms=50.0), an_expert("reader", "b"))
    tasks = (TaskClass("a"), TaskClass("b", budget=BudgetRequest(max_energy_j=0.0)))
    traits = GatewayTraits(max_running=1, max_queued=3000, hop_ms=0.0)
    load = Load(np.linspace(0.0, 0.01, 3001), np.array([0] + [1] * 3000, dtype=np.intp))
    outcome = simulate(a_world((device, 1), tasks=tasks, gateway=traits), load)
    assert counts(outcome)["ANSWERED"] == 1
    assert counts(outcome)["BUDGET_INFEASIBLE"] > 1000


def test_running_together_takes_longer_where_the_device_says_so() -> None:
    device = a_device("orin", an_expert(p50_ms=50.0, p95_ms=50.0), concurrency=2, slowdown=(1.0, 1.5))
    load = Load(np.array([0.0, 0.001]), np.zeros(2, dtype=np.intp))
    outcome = simulate(a_world((device, 1), gateway=GatewayTraits(hop_ms=0.0)), load)
    assert outcome.ends.ms_q == pytest.approx([50.0, 75.0])


def test_unknown_joules_are_counted_as_unknown() -> None:
    device = a_device("orin", an_expert(energy_j=None))
    outcome = simulate(a_world((device, 1)), a_load(5.0, 20))
    assert outcome.machines[0].unmeasured == counts(outcome)["ANSWERED"] > 0
    assert outcome.ends.energy_j_q.sum() == 0.0
