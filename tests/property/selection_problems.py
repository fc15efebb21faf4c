"""Random selection problems with everything in them that is awkward for a solver.

Ties, zero costs, zero weights, scales from 1e-9 to 1e9, limits that nothing fits, memory per node, task classes with
latency limits of their own, joules per query, arms that are there twice.

Shape letters: q queries, n arms, c classes, s sets of arms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from optimizer.selection.arms import Arm, Limits, Routing, TaskClass
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.utility import AnyRight, BestOf, Floats, Table, Utility

UTILITIES = ("best_of", "any_right", "table")
MODES = (Mode.WORST_CASE, Mode.ROUTED)
MOST_ARMS = 14
# 2^n columns each, and every pair of them is compared.
MOST_TABLE_ARMS = 9
_SCALES = (1.0, 1.0, 1.0, 1.0, 1e-9, 1e-3, 1e3, 1e9)


def pick(rng: Generator, *options: Any) -> Any:
    """One of the options; repeat an option to make it likelier."""
    return options[int(rng.integers(len(options)))]


def make_problem(utility: str, mode: Mode, seed: int) -> Problem:
    """A problem of at most 14 arms, mostly hard; the same seed always makes the same."""
    rng = np.random.default_rng([UTILITIES.index(utility), MODES.index(mode), seed])
    arms = int(rng.integers(1, (MOST_TABLE_ARMS if utility == "table" else MOST_ARMS) + 1, 2).max())
    queries = int(rng.integers(1, 9 if utility == "table" else 25))
    worth = _utility(rng, utility, queries, arms)
    if arms > 1 and pick(rng, True, False, False):
        worth = _doubled(worth)
    listed = _arms(rng, arms)
    classes = _classes(rng)
    per_class = pick(rng, True, False)
    per_query = mode is Mode.ROUTED and pick(rng, True, False)
    energy_n, weights_q = np.array([arm.energy_j for arm in listed]), _weights(rng, queries)
    return Problem(
        arms=listed,
        utility=worth,
        weights_q=weights_q,
        limits=_limits(rng, listed, mode),
        routing=_routing(rng, float(energy_n.mean() * weights_q.sum()), utility) if mode is Mode.ROUTED else None,
        classes=classes,
        class_q=rng.integers(0, len(classes), queries),
        latency_cn=rng.integers(1, 6, (len(classes), arms)).astype(float) if per_class else None,
        energy_qn=energy_n * rng.integers(0, 4, (queries, arms)) / 2.0 if per_query else None,
    )


def _values(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Between 0 and 1, with ties or without."""
    if pick(rng, True, False):
        return np.asarray(rng.integers(0, 4, shape) / 3.0)
    return np.asarray(rng.random(shape) * (rng.random(shape) < pick(rng, 1.0, 0.5)))


def _utility(rng: Generator, utility: str, queries: int, arms: int) -> Utility:
    if utility == "any_right":
        return AnyRight(_values(rng, (queries, arms)))
    if utility == "best_of":
        return BestOf(_values(rng, (queries, arms)) * pick(rng, *_SCALES))
    return Table(_table(rng, queries, arms) * pick(rng, *_SCALES))


def _table(rng: Generator, queries: int, arms: int) -> Floats:
    """A coverage (monotone, submodular), a coverage with synergies (monotone), or anything."""
    bit_sn = (np.arange(1 << arms)[:, None] >> np.arange(arms)) & 1 == 1
    value_qs = _values(rng, (queries, 1 << arms))
    kind = pick(rng, "coverage", "synergy", "anything")
    if kind != "anything":
        quality_qn = _values(rng, (queries, arms))
        value_qs = np.where(bit_sn, quality_qn[:, None, :], 0.0).max(axis=2)
    if kind == "synergy" and arms > 1:
        pair = rng.choice(arms, 2, replace=False)
        value_qs = value_qs + np.where(bit_sn[:, pair].all(axis=1), rng.random((queries, 1)), 0.0)
    value_qs[:, 0] = 0.0
    return np.asarray(value_qs)


def _doubled(utility: Utility) -> Utility:
    """With the last arm a copy of the first."""
    if isinstance(utility, Table):
        return utility
    matrix_qn = (utility.quality_qn if isinstance(utility, BestOf) else utility.right_qn).copy()
    matrix_qn[:, -1] = matrix_qn[:, 0]
    return BestOf(matrix_qn) if isinstance(utility, BestOf) else AnyRight(matrix_qn)


def _arms(rng: Generator, arms: int) -> tuple[Arm, ...]:
    energy_n = rng.integers(0, 4, arms).astype(float) if pick(rng, True, False) else rng.random(arms)
    energy_n *= pick(rng, *_SCALES)
    standby_scale = pick(rng, *_SCALES)
    return tuple(
        Arm(
            name=f"a{n}",
            expert="x",
            node=f"n{rng.integers(3)}",
            energy_j=float(energy),
            latency_ms=float(rng.integers(1, 5)),
            memory_bytes=int(rng.integers(0, 5)),
            standby_w=float(rng.integers(0, 4) * standby_scale),
        )
        for n, energy in enumerate(energy_n)
    )


def _classes(rng: Generator) -> tuple[TaskClass, ...]:
    limits_ms = pick(rng, (None,), (None,), (None, 3.0), (3.0, 4.0, None), (2.0,), (0.0, 3.0))
    return tuple(TaskClass(f"c{c}", limit_ms) for c, limit_ms in enumerate(limits_ms))


def _weights(rng: Generator, queries: int) -> Floats:
    drawn_q = np.full(queries, 1.0 / queries) if pick(rng, True, False) else rng.random(queries)
    drawn_q = np.where(rng.random(queries) < pick(rng, 1.0, 1.0, 0.7), drawn_q, 0.0)
    return np.asarray(drawn_q * pick(rng, *_SCALES))


def _limits(rng: Generator, arms: tuple[Arm, ...], mode: Mode) -> Limits:
    fraction = pick(rng, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.6, None, 0.0) if mode is Mode.WORST_CASE else None
    standby = pick(rng, None, None, 0.3, 0.5)
    return Limits(
        energy_j=None if fraction is None else fraction * sum(arm.energy_j for arm in arms),
        memory_bytes=pick(rng, {}, {"n0": 3.0}, {"n0": 5.0, "n1": 4.0}, {"n0": 4.0, "n1": 4.0, "n2": 4.0}),
        standby_w=None if standby is None else standby * sum(arm.standby_w for arm in arms),
        active=pick(rng, None, None, None, None, None, None, 2, 3, 4, 4, 6, 0),
    )


def _routing(rng: Generator, usual_j: float, utility: str) -> Routing:
    """A limit as a fraction of what one arm per query would spend; weights that do not add up to 1 count in it."""
    fraction = pick(rng, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    return Routing(usual_j * fraction, int(pick(rng, 1, 2, 2, 3)) if utility != "best_of" else 1)


def worth_scale(problem: Problem) -> float:
    """The weighted sum of the best that any set is worth to each query: what errors are relative to."""
    utility, arms = problem.utility, tuple(range(len(problem.arms)))
    worth_q = utility.value_qs.max(axis=1) if isinstance(utility, Table) else None
    if worth_q is None:
        worth_q = utility.worth_q(arms, np.ones((utility.queries, len(arms)), dtype=np.bool_))
    return float(problem.weights_q @ worth_q)
