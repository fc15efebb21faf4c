"""Studies find what there is to be found, find nothing where there is nothing, and never see what they judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.selection.idling import Stay
from optimizer.study.limits import Places, frontier, limit_grid, sweep_limits
from optimizer.study.outcome import bootstrap, interval
from optimizer.study.study import POLICIES, RIVAL, Study, StudySettings, _Fold, budget_grid, run_study
from optimizer.study.summary import Against, rows_of, significantly_worse, summarise
from optimizer.study.table import Table
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.study.toy import toy_table

pytestmark = needs_native


@pytest.fixture(scope="module")
def study() -> Study:
    return run_study(toy_table(), StudySettings(budgets=4))


def test_the_gate_finds_what_no_task_tells(study: Study) -> None:
    budget = next(b for b, budget_j in enumerate(study.budgets_j) if budget_j > 1.2)
    assert study.at_budget["edgewise", budget].quality > 0.85
    assert study.at_budget["edgewise", budget].energy_j < 2.5
    assert study.at_budget["task_lookup", budget].quality < 0.7
    summary = summarise(study)
    assert summary["joules_at_best_single_quality"]["edgewise"] < 0.2
    assert summary["surely_at_best_single_quality"]["edgewise"].ratio < 0.3
    assert summary["gate_earns"]
    assert summary["best_single"]["model"] == "giant"


def test_every_policy_has_a_row_per_budget_and_its_quality_in_its_interval(study: Study) -> None:
    rows = rows_of(study)
    assert [(row.policy, row.budget_j) for row in rows] == [(p, b) for b in study.budgets_j for p in POLICIES]
    assert all(row.quality_low <= row.quality <= row.quality_high for row in rows)
    assert all(100.0 <= row.ms_p95 <= 1000.0 for row in rows)


def test_spending_is_near_the_budget_or_below(study: Study) -> None:
    for (name, b), outcome in study.at_budget.items():
        if name != "cheapest":
            assert outcome.energy_j <= study.budgets_j[b] * 1.15, name


def test_nobody_beats_the_oracle_nor_falls_below_the_best_baseline_surely(study: Study) -> None:
    for b in range(len(study.budgets_j)):
        oracle = study.at_budget["oracle", b].quality
        assert all(study.at_budget[name, b].quality <= oracle + 0.02 for name in POLICIES)
    assert summarise(study)["budgets_significantly_worse"] == 0


def test_where_the_text_says_nothing_the_gate_says_so() -> None:
    rng = np.random.default_rng(8)
    table = toy_table()
    noise = replace(table, quality_qm=(rng.random(table.quality_qm.shape) < [0.5, 0.7, 0.5]).astype(np.float64))
    summary = summarise(run_study(noise, StudySettings(budgets=3)))
    assert not summary["gate_earns"]
    assert summary["surely_at_best_single_quality"]["edgewise"].ratio > 0.5


def test_what_is_judged_has_no_say_in_how() -> None:
    table = toy_table(120)
    training, judged = table.rows(np.arange(90)), table.rows(np.arange(90, 120))
    turned = replace(judged, quality_qm=1.0 - judged.quality_qm)
    shell = Study(table, budget_grid(table, 3))
    _, seen = _Fold(training, judged, shell, StudySettings())._rules()
    _, other = _Fold(training, turned, shell, StudySettings())._rules()
    for name, rules in seen.items():
        np.testing.assert_array_equal(rules.judged_rn, other[name].judged_rn)


def test_a_model_is_not_offered_in_tasks_that_it_did_not_answer() -> None:
    table = toy_table(200)
    chat = np.array([task == "chat" for task in table.tasks])
    quality_qm = table.quality_qm.copy()
    quality_qm[chat, 2] = np.nan
    holed = replace(table, quality_qm=quality_qm)
    np.testing.assert_array_equal(holed.choice_qm[:, 2], ~chat)
    assert not holed.eligible_m[2]
    # Without the poet, verse in chats is the giant's, at its price.
    study = run_study(holed, StudySettings(budgets=3))
    assert 0.4 < study.at_budget["edgewise", 0].quality < 0.9


def test_holes_by_chance_count_with_the_models_mean_in_the_task() -> None:
    table = toy_table(200)
    quality_qm = table.quality_qm.copy()
    quality_qm[::3, 2] = np.nan
    holed = replace(table, quality_qm=quality_qm)
    assert holed.choice_qm.all()
    assert holed.eligible_m.all()
    hole = next(q for q in range(0, 200, 3))
    alike = [q for q in range(200) if q % 3 and table.tasks[q] == table.tasks[hole]]
    assert holed.earned_qm[hole, 2] == pytest.approx(table.quality_qm[alike, 2].mean())
    assert run_study(holed, StudySettings(budgets=3)).at_budget["edgewise", 2].quality > 0.7


def test_a_single_model_needs_no_gate() -> None:
    table = toy_table(60)
    alone = Table(
        table.texts, table.tasks, ("giant",), table.quality_qm[:, 1:2], table.joules_qm[:, 1:2], table.ms_qm[:, 1:2]
    )
    summary = summarise(run_study(alone))
    assert summary["joules_at_best_single_quality"]["edgewise"] == pytest.approx(1.0)
    assert not summary["gate_earns"]


@pytest.mark.parametrize("change", ["range", "nobody", "joules", "shape"])
def test_tables_that_cannot_be_meant_are_refused(change: str) -> None:
    table = toy_table(20)
    quality_qm = table.quality_qm.copy()
    quality_qm[3] = 2.0 if change == "range" else np.nan
    wrong: dict[str, dict[str, Any]] = {
        "range": {"quality_qm": quality_qm},
        "nobody": {"quality_qm": quality_qm},
        "joules": {"joules_qm": -table.joules_qm},
        "shape": {"joules_qm": table.joules_qm[:5]},
    }
    with pytest.raises(EvidenceError):
        replace(table, **wrong[change])


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(EvidenceError, match="at least 10"):
        run_study(toy_table(9))


def test_holm_steps_down() -> None:
    def rows(*p_values: float) -> list[Against]:
        return [Against(1.0, 0.0, 0.0, 0.0, p) for p in p_values]

    assert significantly_worse(rows(0.5, 0.9, 0.3)) == 0
    assert significantly_worse(rows(0.001, 0.9, 0.3)) == 1
    assert significantly_worse(rows(0.012, 0.012, 0.012)) == 0
    assert significantly_worse(rows(0.008, 0.012, 0.02)) == 3


def test_the_bootstrap_is_paired_and_covers() -> None:
    rng = np.random.default_rng(0)
    value_q = rng.normal(0.0, 1.0, 400)
    mean_bo = bootstrap(np.column_stack([value_q, value_q + 1.0]))
    np.testing.assert_allclose(mean_bo[:, 1] - mean_bo[:, 0], 1.0, atol=1e-5)
    low, high = interval(mean_bo[:, 0])
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_the_rival_is_a_baseline_at_every_budget(study: Study) -> None:
    for b in range(len(study.budgets_j)):
        rival = study.at_budget[RIVAL, b]
        baselines = [study.at_budget[name, b].quality_q for name in POLICIES[1:-1]]
        assert rival.quality <= max(float(quality_q.mean()) for quality_q in baselines) + 1e-9


def test_hard_limits_let_in_what_fits_and_nothing_else() -> None:
    table = toy_table()
    points = sweep_limits(table, [(0.5, 1e6), (1.05, 1e6), (1.2, 1e6), (20.0, 1e6), (20.0, 105.0)])
    assert [point.answered_fraction for point in points] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert points[0].quality == 0.0
    assert points[1].j_per_query == pytest.approx(1.0)
    assert points[2].quality > 0.85 > 0.7 > points[1].quality
    assert points[4].j_per_query == pytest.approx(1.0)
    assert [p.max_energy_j for p in frontier(points[1:4])] == [1.05, 1.2] or points[3].quality > points[2].quality


def test_idle_joules_are_those_of_the_nodes_whose_models_answer() -> None:
    table = toy_table()
    stays = {"box": Stay(0.5), "pc": Stay(20.0), "attic": Stay(5.0, 0.1), "hub": Stay(2.0, must=True)}
    places = Places(("box", "pc", "attic"), stays)
    cheap, both = sweep_limits(table, [(1.05, 1e6), (1.2, 1e6)], places=places)
    assert cheap.idle_j == pytest.approx(0.5 + 0.1 + 2.0)
    assert both.idle_j == pytest.approx(0.5 + 5.0 + 2.0)
    assert both.total_j == both.j_per_query + both.idle_j


def test_grids_of_limits_let_everything_in_at_their_end() -> None:
    table = toy_table()
    assert limit_grid(table.joules_qm, 5) == (1.0, 1.1, 10.0)
    assert limit_grid(table.joules_qm * 1.2345, 2)[-1] >= 12.345
