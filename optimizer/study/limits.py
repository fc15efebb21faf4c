"""The frontier over hard limits per request: most joules and most milliseconds that one answer may take.

Limits only take models away, and a head does not care which others are there: the estimates of a fold serve every
pair of limits.

Shape letters: q prompts, m models, t tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.sentences import SentenceEncoder
from optimizer.mapping import Mapper, in_turn
from optimizer.selection.idling import Stay
from optimizer.study import estimates
from optimizer.study.estimates import Bench, Estimate, prepare
from optimizer.study.outcome import Outcome, assemble, bootstrap, interval
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A model fits a limit in a task when this share of its answers there did.
_QUANTILE = 0.95


@dataclass(frozen=True)
class Point:
    """What the gate makes of a pair of limits on a request.

    Args:
        max_energy_j: Most joules.
        max_latency_ms: Most milliseconds.
        quality: Mean over all prompts; one that no model fits counts 0.
        quality_low: Lower end of its 95 % interval.
        quality_high: Upper end.
        j_per_query: Mean joules.
        ms_p95: 95 % quantile of the milliseconds.
        answered_fraction: Share of the prompts that some model fits.
        idle_j: Joules per query of the nodes that stay awake for the models that answer; 0 where they do not count.
    """

    max_energy_j: float
    max_latency_ms: float
    quality: float
    quality_low: float
    quality_high: float
    j_per_query: float
    ms_p95: float
    answered_fraction: float
    idle_j: float = 0.0

    @property
    def total_j(self) -> float:
        """Joules per query, idling included."""
        return self.j_per_query + self.idle_j


@dataclass(frozen=True)
class Places:
    """Where models run, and what their nodes take per query.

    Args:
        node_m: Node of each model.
        stays: By node; one that is absent takes nothing.
    """

    node_m: tuple[str, ...]
    stays: Mapping[str, Stay]

    def idle_j(self, used_m: Bools) -> float:
        """Where the nodes of these models are awake, and the others sleep as far as they may."""
        awake = {node for node, used in zip(self.node_m, used_m, strict=True) if used}
        return math.fsum(stay.on_j if node in awake or stay.must else stay.off_j for node, stay in self.stays.items())


def limit_grid(value_qm: Floats, count: int) -> tuple[float, ...]:
    """Limits at which another model comes in, at most so many, the last one letting everything in."""
    needed = np.unique(np.quantile(value_qm, _QUANTILE, axis=0))
    picked = needed[np.unique(np.linspace(0, len(needed) - 1, min(count - 1, len(needed))).round().astype(int))]
    rounded = [_up(value) for value in [*picked.tolist(), float(value_qm.max())]]
    return tuple(sorted(set(rounded)))


def _up(value: float) -> float:
    """Three digits, never less than the value."""
    if value <= 0.0:
        return 0.0
    step = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(f"{np.ceil(value / step - 1e-9) * step:.3g}")


@dataclass(frozen=True)
class _Swept:
    """What one fold's fits say, without what they were made from.

    Args:
        training: The training prompts.
        judged: Those to be judged.
        candidates: What may stand behind the gate.
        task_q: Row of each training prompt's task.
        task_n: Likewise of the prompts to be judged.
        needed_tm: Joules and milliseconds that nearly every answer of a model in a task stays within.
    """

    training: Table
    judged: Table
    candidates: Mapping[str, Estimate]
    task_q: Ints
    task_n: Ints
    needed_tm: tuple[Floats, Floats]


@dataclass(frozen=True)
class _Split:
    """A table, its folds, and how they are fitted."""

    table: Table
    fold_q: Ints
    seed: int
    sentences: SentenceEncoder | None

    def swept(self, fold: int) -> _Swept:
        """The fits of one fold."""
        inside, outside = np.flatnonzero(self.fold_q == fold), np.flatnonzero(self.fold_q != fold)
        judged = self.table.rows(inside)
        bench = prepare(self.table.rows(outside), judged, seed=self.seed, sentences=self.sentences)
        candidates = estimates.gates(bench, estimates.task_lookup(bench))
        needed = _needed(bench, bench.training.joules_qm), _needed(bench, bench.training.ms_qm)
        return _Swept(bench.training, judged, candidates, bench.design.task_q, bench.judged_tasks, needed)


def sweep_limits(
    table: Table,
    limits: Sequence[tuple[float, float]],
    *,
    folds: int = 5,
    seed: int = 0,
    sentences: SentenceEncoder | None = None,
    places: Places | None = None,
    mapper: Mapper = in_turn,
) -> list[Point]:
    """Judge the gate under every pair (most joules, most milliseconds), cross-fitted.

    Args:
        table: The measured outcomes.
        limits: The pairs.
        folds: Parts that are judged in turn.
        seed: Of the folds and samples.
        sentences: An encoder from outside, looked at beside the n-grams.
        places: Has the idle joules of the nodes counted whose models answer.
        mapper: Does the folds, then the pairs.

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: as one study, and a few ms per pair and fold.
    """
    fold_q = np.random.default_rng(seed).permutation(np.arange(len(table.texts)) % folds)
    swept = mapper(partial(_swept, _Split(table, fold_q, seed, sentences)), range(folds), "fold")
    order = np.argsort(np.concatenate([np.flatnonzero(fold_q == fold) for fold in range(folds)]))
    return mapper(partial(_point, swept, order, places), limits, "limit")


def _swept(split: _Split, fold: int) -> _Swept:
    return split.swept(fold)


def _point(swept: Sequence[_Swept], order: Ints, places: Places | None, pair: tuple[float, float]) -> Point:
    parts = [_within(fold, (fold.needed_tm[0] <= pair[0]) & (fold.needed_tm[1] <= pair[1])) for fold in swept]
    outcome = assemble([part[0] for part in parts], order)
    answered_q = np.concatenate([part[1] for part in parts])
    low, high = interval(bootstrap(outcome.quality_q[:, None])[:, 0])
    figures = (outcome.energy_j, outcome.ms_quantile(0.95), float(answered_q.mean()))
    # A node that a model of any fold runs on is awake.
    idle_j = 0.0 if places is None else places.idle_j(np.any([part[2] for part in parts], axis=0))
    return Point(*pair, outcome.quality, low, high, *figures, idle_j)


def _needed(bench: Bench, value_qm: Floats) -> Floats:
    """What nearly every answer of a model in a task stays within, (t, m); row 0, and tasks not seen, by all prompts."""
    out_tm = np.repeat(np.quantile(value_qm, _QUANTILE, axis=0)[None], bench.design.rows, axis=0)
    for row in range(1, bench.design.rows):
        out_tm[row] = np.quantile(value_qm[bench.design.task_q == row], _QUANTILE, axis=0)
    return out_tm


def _within(fold: _Swept, fits_tm: Bools) -> tuple[Outcome, Bools, Bools]:
    """The best candidate under limits, chosen on the training prompts; who is answered, and which models answer."""
    trained_qm = fits_tm[fold.task_q] & fold.training.choice_qm
    judged_nm = fits_tm[fold.task_n] & fold.judged.choice_qm
    rows = np.arange(len(trained_qm))

    def earned(estimate: Estimate) -> float:
        choice_q = np.where(trained_qm, estimate.unseen_qm, -1.0).argmax(axis=1)
        return float((fold.training.earned_qm[rows, choice_q] * trained_qm.any(axis=1)).mean())

    best = max(fold.candidates.values(), key=earned)
    choice_n = np.where(judged_nm, best.judged_nm, -1.0).argmax(axis=1)
    outcome = Outcome.mixed(choice_n[None], np.ones(1), fold.judged)
    answered_n: Bools = np.asarray(judged_nm.any(axis=1))
    used_m: Bools = np.isin(np.arange(judged_nm.shape[1]), choice_n[answered_n])
    within = Outcome(
        outcome.quality_q * answered_n, outcome.joules_q * answered_n, outcome.ms_2q * answered_n, outcome.chance_2q
    )
    return within, answered_n, used_m


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in quality, joules limit, milliseconds limit and idle joules at once."""

    def beaten(point: Point) -> bool:
        return any(
            other.quality >= point.quality
            and other.max_energy_j <= point.max_energy_j
            and other.max_latency_ms <= point.max_latency_ms
            and other.idle_j <= point.idle_j
            and other != point
            and (other.quality, -other.max_energy_j, -other.max_latency_ms, -other.idle_j)
            != (point.quality, -point.max_energy_j, -point.max_latency_ms, -point.idle_j)
            for other in points
        )

    return [point for point in points if not beaten(point)]
