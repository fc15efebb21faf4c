"""Cascades as columns: what they cost adds up, a telling signal is found, and one that tells nothing is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.study.cascades import Cascade, Found, decided, find_cascades, widened
from optimizer.study.limits import sweep_limits
from optimizer.study.record import POLICIES, WITH_CASCADES, StudySettings
from optimizer.study.signals import Calibration, calibrate, start_of, unseen_chance
from optimizer.study.study import run_study
from optimizer.study.summary import summarise
from optimizer.study.table import Table
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.study.cascading import agreeing_table, cascading_table

SIGNALS = ("confidence", "length", "agreement")


def found(table: Table, *, seed: int = 0) -> Found:
    """Cascades of a table about which a gate knows each model's mean alone."""
    means_qm = np.broadcast_to(table.earned_qm.mean(axis=0), table.earned_qm.shape)
    return find_cascades(table, means_qm, table.joules_qm, seed=seed)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_telling_signal_makes_a_cascade_and_a_drawn_one_makes_none(signal: str) -> None:
    telling = found(cascading_table(signal=signal))
    assert telling.cascades
    # Agreement with oneself takes two samples.
    first = (0, 0) if signal == "agreement" else (0,)
    assert {(one.first, one.second, one.signal) for one in telling.cascades} == {(first, 1, signal)}
    assert found(cascading_table(signal=signal, telling=False)).cascades == ()


def test_two_small_models_that_agree_are_believed() -> None:
    cascade = found(agreeing_table()).cascades[0]
    assert (cascade.first, cascade.second, cascade.signal) == ((0, 1), 2, "agreement")
    assert found(agreeing_table(telling=False)).cascades == ()


@pytest.mark.parametrize("signal", SIGNALS)
def test_quality_joules_and_milliseconds_add_up_exactly(signal: str) -> None:
    table = cascading_table(signal=signal)
    cascades, goes_on_qk = found(table)
    wide = widened(table, cascades, goes_on_qk)
    samples = 2 if signal == "agreement" else 1
    for k, goes_on_q in enumerate(goes_on_qk.T):
        column = table.quality_qm.shape[1] + k
        assert wide.joules_qm[:, column].mean() == pytest.approx(samples * 1.0 + goes_on_q.mean() * 10.0)
        np.testing.assert_array_equal(wide.ms_qm[:, column], samples * 10.0 + goes_on_q * 100.0)
        expected_q = np.where(goes_on_q, table.quality_qm[:, 1], table.quality_qm[:, 0])
        np.testing.assert_array_equal(wide.quality_qm[:, column], expected_q)
    assert wide.plain == 2
    assert f" >{signal} " in wide.models[2]
    assert not wide.eligible_m[2:].any()


def test_two_models_side_by_side_cost_both_and_wait_for_the_slower() -> None:
    table = agreeing_table()
    slower = replace(table, ms_qm=table.ms_qm * np.array([1.0, 3.0, 1.0]))
    cascades, goes_on_qk = found(slower)
    wide = widened(slower, cascades[:1], goes_on_qk[:, :1])
    np.testing.assert_array_equal(wide.joules_qm[:, 3], 2.0 + goes_on_qk[:, 0] * 20.0)
    np.testing.assert_array_equal(wide.ms_qm[:, 3], 30.0 + goes_on_qk[:, 0] * 200.0)


def test_what_is_judged_has_no_say_in_which_cascades_there_are_nor_in_where_they_go_on() -> None:
    table = cascading_table()
    training, judged = table.rows(np.arange(300)), table.rows(np.arange(300, 400))
    turned = replace(judged, quality_qm=1.0 - judged.quality_qm)
    half_qm = np.full(judged.quality_qm.shape, 0.5)
    cascades = found(training).cascades
    np.testing.assert_array_equal(decided(cascades, judged, half_qm), decided(cascades, turned, half_qm))


def test_a_prompts_own_outcome_does_not_move_its_chance() -> None:
    table = cascading_table(100)
    half_qm = np.full(table.quality_qm.shape, 0.5)
    chance_q = unseen_chance(start_of(table, (0,), "confidence", half_qm), table.tasks, folds=5, seed=0)
    quality_qm = table.quality_qm.copy()
    quality_qm[7, 0] = 1.0 - quality_qm[7, 0]
    other = replace(table, quality_qm=quality_qm)
    other_q = unseen_chance(start_of(other, (0,), "confidence", half_qm), other.tasks, folds=5, seed=0)
    assert chance_q[7] == other_q[7]
    assert (chance_q != other_q).any()


def test_calibration_is_per_task_and_an_answer_without_a_signal_never_stands() -> None:
    table = cascading_table()
    exam = np.array([task == "exam" for task in table.tasks])
    signal_qm = table.signals["confidence"].copy()
    # In exams the small one's confidence tells nothing.
    signal_qm[exam, 0] = np.random.default_rng(0).permutation(signal_qm[exam, 0])
    signal_qm[5, 0] = np.nan
    mixed = replace(table, signals={"confidence": signal_qm})
    start = start_of(mixed, (0,), "confidence", np.full(table.quality_qm.shape, 0.5))
    fitted = calibrate(start, mixed.tasks)
    assert fitted.of_task["chat"][0] > 5.0 * max(fitted.of_task["exam"][0], 0.01)
    chance_q = fitted.chance(start, mixed.tasks)
    assert chance_q[5] == 0.0
    assert chance_q[~exam].max() > 0.9
    assert chance_q[exam].max() < 0.8


def test_a_signal_that_speaks_against_good_answers_says_nothing() -> None:
    table = cascading_table()
    turned = replace(table, signals={"confidence": 1.0 - table.signals["confidence"]})
    assert found(turned).cascades == ()


def test_signals_of_another_shape_are_refused() -> None:
    table = cascading_table(20)
    with pytest.raises(EvidenceError, match="Signals and answers"):
        replace(table, signals={"confidence": np.zeros((20, 3))})


@needs_native
@pytest.mark.parametrize("telling", [True, False])
def test_a_study_uses_cascades_where_they_earn_and_says_so(*, telling: bool) -> None:
    summary = summarise(run_study(cascading_table(telling=telling), StudySettings(budgets=4, cascades=True)))
    assert {row.policy for row in summary["rows"]} == {*POLICIES, *WITH_CASCADES}
    proven = summary["surely_at_best_single_quality"]
    assert summary["cascades_earn"] == telling
    assert bool(summary["cascades"]) == telling
    # Half of the answers stand: 1 J, and 10 J for the other half.
    assert proven["edgewise"].ratio < 0.75 if telling else proven["edgewise"].ratio == proven["models_alone"].ratio
    assert proven["models_alone"].ratio > 0.9


@needs_native
def test_a_study_without_cascades_is_what_it_was() -> None:
    table = cascading_table(100)
    plain = replace(table, signals={})
    with_signals, without = (run_study(one, StudySettings(folds=2, budgets=2)) for one in (table, plain))
    assert with_signals.policies == POLICIES
    for key, outcome in without.at_budget.items():
        np.testing.assert_array_equal(outcome.quality_q, with_signals.at_budget[key].quality_q)


@needs_native
def test_without_a_signal_what_was_foreseen_stands_in_and_earns_nothing() -> None:
    summary = summarise(
        run_study(replace(cascading_table(200), signals={}), StudySettings(folds=2, budgets=2, cascades=True))
    )
    assert all(">foreseen " in name for name in summary["cascades"])
    assert not summary["cascades_earn"]


@needs_native
def test_hard_limits_ask_for_all_that_a_cascade_may_take() -> None:
    table = cascading_table()
    with_both, with_one = sweep_limits(table, [(11.5, 1e6), (10.5, 1e6)], folds=2, cascades=True)
    alone = sweep_limits(table, [(11.5, 1e6)], folds=2)[0]
    assert with_both.quality > alone.quality + 0.005
    assert with_one.quality == pytest.approx(alone.quality, abs=0.005)


def test_the_name_tells_what_is_asked_when() -> None:
    none = Calibration({}, (0.0, 0.0, 0.0))
    assert Cascade((0,), 1, "length", 0.25, none).name(("small", "large")) == "small >length 0.25> large"
    assert Cascade((0, 1), 2, "agreement", 0.5, none).name(("a", "b", "c")) == "a+b >agreement 0.5> c"
