"""SCIP through pyscipopt.

Best-of: facility location as for HiGHS. Any-right has two encodings:

- ``lazy``: submodular cuts and tangents from a constraint handler, in one tree, at integer and at fractional points;
- ``log``: 1 − exp(−Σ a_qn z_n) with a = −log(1 − p), a convex program that SCIP's nonlinear part takes as it is.

Shape letters: q queries, n arms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyscipopt as scip

from .instance import Answer, Instance, Stopwatch

_TOLERANCE = 1e-7


def solve(instance: Instance, encoding: str) -> Answer:
    """Solve with the encoding ``lazy`` or ``log`` (any-right)."""
    watch = Stopwatch(instance.time_limit_s)
    model = scip.Model()
    model.hideOutput()
    model.setParam("limits/time", instance.time_limit_s)
    model.setParam("limits/gap", 0.0)
    model.setParam("parallel/maxnthreads", 1)
    chosen_n = [model.addVar(vtype="B") for _ in instance.cost_n]
    model.addCons(scip.quicksum(int(c) * z for c, z in zip(instance.cost_n, chosen_n, strict=True)) <= instance.limit)
    if not instance.any_right:
        _best_of(model, instance, chosen_n)
    elif encoding == "log":
        _log(model, instance, chosen_n)
    else:
        _lazy(model, instance, chosen_n)
    watch.time(model.optimize)
    finished = model.getStatus() == "optimal"
    found = model.getBestSol() if model.getNSols() else None
    active = [] if found is None else [n for n, z in enumerate(chosen_n) if model.getSolVal(found, z) > 0.5]
    return Answer(active, watch.seconds, finished)


def _best_of(model: Any, instance: Instance, chosen_n: list[Any]) -> None:
    terms = []
    for worth_n in instance.worth_qn:
        served = [(float(worth_n[n]), n, model.addVar(lb=0.0, ub=1.0)) for n in np.flatnonzero(worth_n > 0.0)]
        for worth, n, served_by in served:
            model.addCons(served_by <= chosen_n[n])
            terms.append(worth * served_by)
        if served:
            model.addCons(scip.quicksum(served_by for _, _, served_by in served) <= 1)
    model.setObjective(scip.quicksum(terms), "maximize")


def _worth_variables(model: Any, instance: Instance) -> list[Any]:
    worth_q = [model.addVar(lb=0.0, ub=1.0) for _ in instance.weights_q]
    total = scip.quicksum(float(w) * worth for w, worth in zip(instance.weights_q, worth_q, strict=True))
    model.setObjective(total, "maximize")
    return worth_q


def _log(model: Any, instance: Instance, chosen_n: list[Any]) -> None:
    steep_qn = -np.log1p(-np.minimum(instance.worth_qn, 1.0 - 1e-12))
    for worth, steep_n in zip(_worth_variables(model, instance), steep_qn, strict=True):
        height = scip.quicksum(float(steep_n[n]) * chosen_n[n] for n in np.flatnonzero(steep_n > 0.0))
        model.addCons(worth + scip.exp(-height) <= 1.0)


def _lazy(model: Any, instance: Instance, chosen_n: list[Any]) -> None:
    # Tighter than the handler's own tolerance, or SCIP calls a cut satisfied that the handler adds again.
    model.setParam("numerics/feastol", 1e-8)
    worth_q = _worth_variables(model, instance)
    for start in ([], instance.greedy()):
        constant_q, slope_qn = instance.cut(start)
        for q, worth in enumerate(worth_q):
            model.addCons(worth <= float(constant_q[q]) + _sum(slope_qn[q], chosen_n))
    handler = _Cuts(instance, chosen_n, worth_q)
    model.includeConshdlr(
        handler, "submodular", "worth under a submodular function", sepapriority=1, enfopriority=-10, chckpriority=-10,
        sepafreq=1, propfreq=-1, eagerfreq=-1, maxprerounds=0, delaysepa=False, delayprop=False, needscons=False,
    )  # fmt: skip
    _start_from(model, instance, chosen_n, worth_q)


def _start_from(model: Any, instance: Instance, chosen_n: list[Any], worth_q: list[Any]) -> None:
    known, active = model.createSol(), instance.greedy()
    for n, chosen in enumerate(chosen_n):
        model.setSolVal(known, chosen, float(n in active))
    for worth, value in zip(worth_q, instance.value_q(active), strict=True):
        model.setSolVal(known, worth, float(value))
    model.addSol(known)


def _sum(slope_n: Any, chosen_n: list[Any]) -> Any:
    return scip.quicksum(float(slope_n[n]) * chosen_n[n] for n in np.flatnonzero(slope_n > 0.0))


class _Cuts(scip.Conshdlr):  # type: ignore[misc]
    """Adds the cut that a point violates, for every query."""

    def __init__(self, instance: Instance, chosen_n: list[Any], worth_q: list[Any]) -> None:
        self._instance, self._chosen_n, self._worth_q = instance, chosen_n, worth_q

    def conscheck(self, constraints: Any, solution: Any, *rest: Any) -> dict[str, Any]:
        active = [n for n, z in enumerate(self._chosen_n) if self.model.getSolVal(solution, z) > 0.5]
        value_q = self._instance.value_q(active)
        over = any(
            self.model.getSolVal(solution, w) > v + _TOLERANCE for w, v in zip(self._worth_q, value_q, strict=True)
        )
        return {"result": scip.SCIP_RESULT.INFEASIBLE if over else scip.SCIP_RESULT.FEASIBLE}

    def consenfolp(self, *rest: Any) -> dict[str, Any]:
        return {"result": scip.SCIP_RESULT.SEPARATED if self._separate() else scip.SCIP_RESULT.FEASIBLE}

    def conssepalp(self, *rest: Any) -> dict[str, Any]:
        return {"result": scip.SCIP_RESULT.SEPARATED if self._separate() else scip.SCIP_RESULT.DIDNOTFIND}

    def consenfops(self, *rest: Any) -> dict[str, Any]:
        return {"result": scip.SCIP_RESULT.SOLVELP}

    def conslock(self, constraint: Any, locktype: Any, nlockspos: int, nlocksneg: int) -> None:
        for worth in self._worth_q:
            self.model.addVarLocks(worth, nlocksneg, nlockspos)
        for chosen in self._chosen_n:
            self.model.addVarLocks(chosen, nlockspos, nlocksneg)

    def _separate(self) -> int:
        point_n = np.array([self.model.getSolVal(None, z) for z in self._chosen_n])
        constant_q, slope_qn = self._instance.lowest(point_n)
        added = 0
        for q, worth in enumerate(self._worth_q):
            if self.model.getSolVal(None, worth) <= constant_q[q] + slope_qn[q] @ point_n + _TOLERANCE:
                continue
            row = self.model.createEmptyRowUnspec(f"cut{q}", lhs=None, rhs=float(constant_q[q]), local=False)
            self.model.cacheRowExtensions(row)
            self.model.addVarToRow(row, worth, 1.0)
            for n in np.flatnonzero(slope_qn[q] > 0.0):
                self.model.addVarToRow(row, self._chosen_n[n], -float(slope_qn[q, n]))
            self.model.flushRowExtensions(row)
            self.model.addCut(row, forcecut=True)
            added += 1
        return added
