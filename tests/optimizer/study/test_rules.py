"""Lotteries between two rules are the best mixtures within a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from optimizer.study.estimates import Estimate
from optimizer.study.rules import Rules, priced, single, upper_hull
from optimizer.study.table import Table
from tests.optimizer.study.toy import toy_table

POINTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), min_size=1, max_size=12)


def _rules(points: list[tuple[int, int]]) -> Rules:
    joules_qm = np.tile([float(joules) for joules, _ in points], (4, 1))
    quality_qm = np.tile([quality / 20.0 for _, quality in points], (4, 1))
    names = tuple(f"m{i}" for i in range(len(points)))
    table = Table(("",) * 4, ("",) * 4, names, quality_qm, joules_qm, joules_qm)
    return single(np.arange(len(points)), training=table, judged=4)


@settings(max_examples=200, deadline=None)
@given(POINTS, st.floats(1.0, 40.0))
def test_spending_is_the_linear_programme(points: list[tuple[int, int]], budget_j: float) -> None:
    rules = _rules(points)
    lottery, quality = rules.spend(budget_j)
    joules = (1.0 - lottery.chance) * rules.joules_r[lottery.first] + lottery.chance * rules.joules_r[lottery.second]
    optimum = linprog(
        -rules.quality_r, A_ub=[rules.joules_r], b_ub=[budget_j], A_eq=[np.ones(len(points))], b_eq=[1.0], bounds=(0, 1)
    )
    if optimum.status == 2:
        assert joules == rules.joules_r.min()
        return
    assert joules <= budget_j + 1e-9
    assert quality == pytest.approx(-optimum.fun, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(POINTS)
def test_the_edge_rises_and_bends_down(points: list[tuple[int, int]]) -> None:
    joules_r, quality_r = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
    edge = upper_hull(joules_r, quality_r)
    assert (np.diff(quality_r[edge]) > 0).all()
    slopes = np.diff(quality_r[edge]) / np.diff(joules_r[edge])
    assert (np.diff(slopes) < 1e-12).all()
    assert quality_r[edge[-1]] == quality_r.max()


def test_a_price_chooses_by_quality_less_joules_and_never_where_there_is_no_answer() -> None:
    table = toy_table(40)
    quality_qm = table.quality_qm.copy()
    quality_qm[:, 0] = np.nan
    table = Table(table.texts, table.tasks, table.models, quality_qm, table.joules_qm, table.ms_qm)
    estimate = Estimate(np.tile([0.99, 0.9, 0.5], (40, 1)), np.tile([0.99, 0.9, 0.5], (40, 1)))
    rules = priced(estimate, Estimate(table.joules_qm, table.joules_qm), training=table, judged=table)
    assert set(rules.unseen_rq[0]) == {1}
    assert set(rules.unseen_rq[-1]) == {2}
    assert 0 not in rules.judged_rn
