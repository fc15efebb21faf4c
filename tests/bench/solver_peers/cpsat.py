"""CP-SAT of OR-tools, with worths as integers.

Best-of: facility location with boolean y, implications y_qn → z_n and at most one y per query; the largest weighted
worth becomes 10^7, so rounding costs less than 10^-7 of the objective. Any-right in rounds, with two kinds of cuts:

- ``cuts``: submodular ones, added at each round's best set;
- ``log``: tangents of 1 − exp(−t_q) with t_q = Σ a_qn z_n as integers, from a grid and at each round's best set.

Both end when the bound, evaluated with the integers' rounding, is within 10^-6 of the best set.

Shape letters: q queries, n arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from .instance import Answer, Floats, Instance, Stopwatch

_LARGEST = 10**7
_ONE = 10**7
_GAP = 5e-7
_GRID = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def solve(instance: Instance, encoding: str) -> Answer:
    """Solve with the encoding ``cuts`` or ``log`` (any-right)."""
    return _any_right(instance, encoding) if instance.any_right else _best_of(instance)


def _run(model: Any, watch: Stopwatch) -> tuple[Any, Any]:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = watch.left_s
    solver.parameters.relative_gap_limit = 0.0
    return solver, watch.time(solver.solve, model)


def _active(solver: Any, chosen_n: list[Any]) -> list[int]:
    return [n for n, z in enumerate(chosen_n) if solver.value(z)]


def _base(instance: Instance) -> tuple[Any, list[Any]]:
    model = cp_model.CpModel()
    chosen_n = [model.new_bool_var("") for _ in instance.cost_n]
    model.add(sum(int(c) * z for c, z in zip(instance.cost_n, chosen_n, strict=True)) <= instance.limit)
    return model, chosen_n


def _best_of(instance: Instance) -> Answer:
    watch = Stopwatch(instance.time_limit_s)
    model, chosen_n = _base(instance)
    scaled_qn = np.rint(instance.worth_qn * (_LARGEST / instance.worth_qn.max())).astype(np.int64)
    terms = []
    for scaled_n in scaled_qn:
        served = [(int(scaled_n[n]), n, model.new_bool_var("")) for n in np.flatnonzero(scaled_n)]
        for worth, n, served_by in served:
            model.add_implication(served_by, chosen_n[n])
            terms.append(worth * served_by)
        model.add_at_most_one(served_by for _, _, served_by in served)
    model.maximize(sum(terms))
    solver, status = _run(model, watch)
    known = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Answer(_active(solver, chosen_n) if known else [], watch.seconds, status == cp_model.OPTIMAL)


@dataclass
class _Rounds:
    """The integer model of any-right: worths and slopes in units of 1 / 10^7, objective in 1 / 10^7 of a weight."""

    instance: Instance
    model: Any
    chosen_n: list[Any]
    worth_q: list[Any]

    def cut(self, constant_q: Floats, slope_qn: Floats) -> None:
        """worth_q ≤ constant_q + slope_qn @ z, each coefficient rounded up."""
        for q, worth in enumerate(self.worth_q):
            used = np.flatnonzero(slope_qn[q] > 0.0)
            slopes = np.ceil(slope_qn[q, used] * _ONE).astype(np.int64)
            total = sum(int(slope) * self.chosen_n[n] for slope, n in zip(slopes, used, strict=True))
            self.model.add(worth <= int(np.ceil(constant_q[q] * _ONE)) + total)

    def tangent(self, height_q: Floats) -> None:
        """1 − exp(−t) ≤ 1 − exp(−h) + exp(−h)(t − h), with t linear in z."""
        steep_qn = -np.log1p(-np.minimum(self.instance.worth_qn, 1.0 - 1e-9))
        fall_q = np.exp(-height_q)
        self.cut(1.0 - fall_q - fall_q * height_q, fall_q[:, None] * steep_qn)

    def tangent_at(self, active: list[int]) -> None:
        """The tangent at a set."""
        steep_qn = -np.log1p(-np.minimum(self.instance.worth_qn, 1.0 - 1e-9))
        self.tangent(steep_qn[:, active].sum(axis=1))


def _any_right(instance: Instance, encoding: str) -> Answer:
    watch = Stopwatch(instance.time_limit_s)
    model, chosen_n = _base(instance)
    worth_q = [model.new_int_var(0, _ONE, "") for _ in instance.weights_q]
    share_q = np.maximum(np.rint(instance.weights_q / instance.weights_q.max() * 1000), 0).astype(np.int64)
    model.maximize(sum(int(share) * worth for share, worth in zip(share_q, worth_q, strict=True)))
    rounds, best = _Rounds(instance, model, chosen_n, worth_q), instance.greedy()
    if encoding == "log":
        for height in _GRID:
            rounds.tangent(np.full(len(worth_q), height))
        rounds.tangent_at(best)
    else:
        for start in ([], best):
            rounds.cut(*instance.cut(start))
    unit = 1.0 / (_ONE * float(share_q.sum()))
    return _improve(rounds, best, encoding, watch, unit)


def _improve(rounds: _Rounds, best: list[int], encoding: str, watch: Stopwatch, unit: float) -> Answer:
    instance = rounds.instance
    top = float(instance.weights_q @ instance.value_q(best))
    while not watch.expired:
        rounds.model.clear_hints()
        for n, z in enumerate(rounds.chosen_n):
            rounds.model.add_hint(z, n in best)
        solver, status = _run(rounds.model, watch)
        if status != cp_model.OPTIMAL:
            break
        active = _active(solver, rounds.chosen_n)
        value = float(instance.weights_q @ instance.value_q(active))
        best, top = (active, value) if value > top else (best, top)
        if solver.objective_value * unit - top <= _GAP:
            return Answer(best, watch.seconds, True)
        if encoding == "log":
            rounds.tangent_at(active)
        else:
            rounds.cut(*instance.cut(active))
    return Answer(best, watch.seconds, False)
