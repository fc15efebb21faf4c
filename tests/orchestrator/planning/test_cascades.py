"""Cascades as arms of a running gateway's plan: they change what is active where limits bind, and nothing where not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer.evidence.answers import Evidence
from optimizer.selection.arms import Arm
from optimizer.selection.exact import Search
from optimizer.selection.solve import solve
from orchestrator.planning import make
from orchestrator.planning.cascades import parts_of, with_cascades
from orchestrator.planning.learning import Learning
from orchestrator.planning.make import make_plan, plan_problem
from orchestrator.planning.snapshot import Snapshot
from tests.optimizer.gate.needed import needs_native

# A cheap one that knows which half of its answers are right, a middling one that does not, and a dear one.
EXPERTS, JOULES, RIGHT = ("large", "middle", "small"), (10.0, 6.0, 1.0), (0.97, 0.75, 0.5)


def evidence(*, telling: bool = True, queries: int = 800) -> Evidence:
    """Features say nothing; only the small one's confidence does, or is drawn."""
    rng = np.random.default_rng(0)
    right_eq = rng.random((3, queries)) < np.array(RIGHT)[:, None]
    sure_eq = np.full((3, queries), 0.9)
    sure_eq[2] = np.where(right_eq[2] if telling else rng.random(queries) < 0.5, 0.98, 0.55)
    answer_eq = np.where(right_eq, 0, 1)
    outputs_eqc = np.repeat(((1.0 - sure_eq) / 2.0)[:, :, None], 3, axis=2)
    np.put_along_axis(outputs_eqc, answer_eq[:, :, None], sure_eq[:, :, None], axis=2)
    return Evidence(EXPERTS, rng.normal(size=(queries, 2)), np.zeros(queries, dtype=np.int64), outputs_eqc)


def snapshot(known: Evidence, **limits: Any) -> Snapshot:
    nodes = {"large": "pc", "middle": "laptop", "small": "orin"}
    arms = tuple(
        Arm(f"{expert}:v@{nodes[expert]}", expert, nodes[expert], joules, 10.0 * joules, int(joules))
        for expert, joules in zip(EXPERTS, JOULES, strict=True)
    )
    return Snapshot("digits", arms, known, None, limits.pop("max_active", None), {}, **limits)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_LEARNING", Learning())


@needs_native
def test_a_cascade_brings_its_arms_into_the_plan_where_its_signal_tells() -> None:
    limits = {"max_active": 2, "mean_energy_j": 6.3}
    plans = {telling: make_plan(snapshot(evidence(telling=telling), **limits)) for telling in (True, False)}
    assert plans[True].active == {"small:v@orin", "large:v@pc"}
    assert plans[True].needed == {"orin", "pc"}
    # 1 J for all and 10 J for half of them: as good as the large one, for less than it takes.
    assert plans[True].certificate.quality_fraction > 0.9
    assert plans[False].certificate.quality_fraction < 0.8
    assert {plan.certificate.status for plan in plans.values()} == {"optimal"}


@needs_native
def test_a_cascades_figures_are_its_stages_weighed_by_their_chance_to_run() -> None:
    asked = snapshot(evidence(), mean_energy_j=6.3)
    model = Learning().model(asked)
    assert model is not None
    quality_qe = np.stack([model.heads.predict(x_f) for x_f in evidence().features_qf])
    singles = plan_problem(asked, model, quality_qe)
    wide = with_cascades(singles, model, quality_qe)
    row = {route.name: r for r, route in enumerate(model.routes)}
    assert len(wide.arms) > 3
    for n, arm in enumerate(wide.arms[3:], start=3):
        route = model.routes[row[arm.expert]]
        reach_s = model.reference.reach_rs[row[arm.expert]]
        joules = dict(zip(EXPERTS, JOULES, strict=True))
        expected_j = sum(chance * joules[stage[0]] for chance, stage in zip(reach_s, route.stages, strict=False))
        assert arm.energy_j == pytest.approx(expected_j, rel=0.03)
        assert arm.energy_j == pytest.approx(wide.run_energy_qn[:, n].mean())
        assert arm.latency_ms == pytest.approx(sum(10.0 * joules[expert] for expert in route.experts))
        assert arm.memory_bytes == sum(int(joules[expert]) for expert in route.experts)
    solution = solve(wide, Search())
    assert parts_of(wide, solution.active, singles.arms) == (0, 1, 2)


@needs_native
def test_where_nothing_is_limited_the_problem_stays_as_it_was() -> None:
    asked = snapshot(evidence())
    model = Learning().model(asked)
    singles = plan_problem(asked, model)
    assert with_cascades(singles, model, np.full((800, 3), 0.5)) is singles
    assert with_cascades(singles, None, None) is singles
    assert len(make_plan(asked).active) == 3


@needs_native
def test_the_sum_of_what_is_active_stays_within_the_worst_case_and_memory() -> None:
    known = evidence()
    worst = make_plan(replace(snapshot(known), energy_limit_j=11.5))
    assert worst.active == {"small:v@orin", "large:v@pc"}
    tight = make_plan(replace(snapshot(known, mean_energy_j=6.3), memory_limit_bytes={"pc": 9}))
    assert "large:v@pc" not in tight.active
