"""HiGHS, called directly.

Best-of: facility location, y_qn ≤ z_n and Σ_n y_qn ≤ 1 with y continuous, zero entries left out. Any-right: one
number per query under submodular cuts and tangents, first separated at fractional points of the linear relaxation until
that moves no more, then in rounds of the mixed-integer program; each round starts from the best set so far.

Shape letters: q queries, n arms, v variables y.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from .instance import Answer, Floats, Instance, Stopwatch

_LP_ROUNDS = 40
_GAP = 1e-7


def solve(instance: Instance, encoding: str) -> Answer:
    """Solve with the encoding, of which there is one per utility."""
    del encoding
    return _any_right(instance) if instance.any_right else _best_of(instance)


def _highs(watch: Stopwatch) -> Any:
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 1e-9)
    solver.setOptionValue("time_limit", watch.left_s)
    return solver


def _best_of(instance: Instance) -> Answer:
    watch, arms = Stopwatch(instance.time_limit_s), instance.worth_qn.shape[1]
    solver = _highs(watch)
    query_v, arm_v = np.nonzero(instance.worth_qn > 0.0)
    for _ in range(arms):
        solver.addVar(0.0, 1.0)
    for _ in query_v:
        solver.addVar(0.0, 1.0)
    columns = arms + len(query_v)
    gain = np.concatenate([np.zeros(arms), instance.worth_qn[query_v, arm_v]])
    solver.changeColsCost(columns, np.arange(columns, dtype=np.int32), gain)
    solver.changeColsIntegrality(arms, np.arange(arms, dtype=np.int32), np.ones(arms, dtype=np.uint8))
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
    _row(solver, float(instance.limit), np.arange(arms), instance.cost_n.astype(float))
    for q in range(len(instance.worth_qn)):
        mine = arms + np.flatnonzero(query_v == q)
        _row(solver, 1.0, mine, np.ones(len(mine)))
    for v, n in enumerate(arm_v):
        _row(solver, 0.0, np.array([arms + v, n]), np.array([1.0, -1.0]))
    watch.time(solver.run)
    return _answer(solver, arms, watch)


def _row(solver: Any, upper: float, index: Any, value: Floats) -> None:
    solver.addRow(-highspy.kHighsInf, upper, len(index), index.astype(np.int32), value)


def _answer(solver: Any, arms: int, watch: Stopwatch) -> Answer:
    finished = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return Answer(_active(solver, arms), watch.seconds, finished)


def _active(solver: Any, arms: int) -> list[int]:
    values = np.array(solver.getSolution().col_value[:arms])
    return [int(n) for n in np.flatnonzero(values > 0.5)]


def _any_right(instance: Instance) -> Answer:
    """Columns: arms, then one per query."""
    watch, (queries, arms) = Stopwatch(instance.time_limit_s), instance.worth_qn.shape
    solver = _highs(watch)
    for _ in range(arms + queries):
        solver.addVar(0.0, 1.0)
    gain = np.concatenate([np.zeros(arms), instance.weights_q])
    solver.changeColsCost(len(gain), np.arange(len(gain), dtype=np.int32), gain)
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
    _row(solver, float(instance.limit), np.arange(arms), instance.cost_n.astype(float))
    best = instance.greedy()
    for start in ([], best):
        _cut(solver, instance, *instance.cut(start))
    _relax(solver, instance, watch)
    solver.changeColsIntegrality(arms, np.arange(arms, dtype=np.int32), np.ones(arms, dtype=np.uint8))
    return _rounds(solver, instance, best, watch)


def _cut(solver: Any, instance: Instance, constant_q: Floats, slope_qn: Floats) -> None:
    arms = slope_qn.shape[1]
    for q, (constant, slope_n) in enumerate(zip(constant_q, slope_qn, strict=True)):
        used = np.flatnonzero(slope_n > 0.0)
        _row(solver, float(constant), np.append(used, arms + q), np.append(-slope_n[used], 1.0))


def _relax(solver: Any, instance: Instance, watch: Stopwatch) -> None:
    arms, last = instance.worth_qn.shape[1], np.inf
    for _ in range(_LP_ROUNDS):
        watch.time(solver.run)
        point = np.array(solver.getSolution().col_value)
        height = float(instance.weights_q @ point[arms:])
        if watch.expired or last - height < 1e-6:
            return
        last = height
        constant_q, slope_qn = instance.lowest(point[:arms])
        above_q = point[arms:] > constant_q + slope_qn @ point[:arms] + 1e-9
        for q in np.flatnonzero(above_q):
            used = np.flatnonzero(slope_qn[q] > 0.0)
            _row(solver, float(constant_q[q]), np.append(used, arms + q), np.append(-slope_qn[q, used], 1.0))


def _rounds(solver: Any, instance: Instance, best: list[int], watch: Stopwatch) -> Answer:
    arms = instance.worth_qn.shape[1]
    top = float(instance.weights_q @ instance.value_q(best))
    while not watch.expired:
        solver.setOptionValue("time_limit", watch.left_s + solver.getRunTime())
        _start_from(solver, instance, best)
        watch.time(solver.run)
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            break
        active, bound = _active(solver, arms), solver.getInfo().objective_function_value
        value = float(instance.weights_q @ instance.value_q(active))
        best, top = (active, value) if value > top else (best, top)
        if bound - top <= _GAP:
            return Answer(best, watch.seconds, True)
        _cut(solver, instance, *instance.cut(active))
    return Answer(best, watch.seconds, False)


def _start_from(solver: Any, instance: Instance, active: list[int]) -> None:
    known = highspy.HighsSolution()
    chosen = np.zeros(instance.worth_qn.shape[1])
    chosen[active] = 1.0
    known.col_value = [*chosen.tolist(), *instance.value_q(active).tolist()]
    solver.setSolution(known)
