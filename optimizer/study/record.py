"""What a study is asked and what comes of it: policies, settings, outcomes on all prompts.

Shape letters: q prompts, m models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.sentences import SentenceEncoder
from optimizer.study.outcome import Outcome
from optimizer.study.table import Table

Floats = NDArray[np.float64]

# What others would do; the best of them on the training folds is what the gate must not fall behind.
BASELINES = ("random", "cheapest", "best_single", "task_lookup", "static_mixture", "knn", "kmeans", "tfidf_ridge")
POLICIES = ("edgewise", *BASELINES, "oracle")
# Not a policy that anybody runs: at every budget, the baseline that was best on the training folds.
RIVAL = "best_baseline"
# What is judged beside these where cascades may be chosen: the gate without them, and lotteries of models and cascades
# that look at no prompt.
WITH_CASCADES = ("models_alone", "static_cascades")
# Policies that have a curve over budgets.
CURVES = ("edgewise", "task_lookup", "static_mixture", "knn", "kmeans", "tfidf_ridge", "oracle", "best_single")

# How far below the best single model's quality counts as level.
MARGIN = 0.003
# Budgets of the fine curve on which equal quality is read off.
CURVE = 24


@dataclass(frozen=True)
class StudySettings:
    """How a table is studied.

    Args:
        folds: Parts that are judged in turn.
        budgets: How many budgets between the cheapest model's joules and the best single model's.
        seed: Of folds and samples.
        sentences: An encoder from outside, whose embeddings the gate may look at too.
        cascades: Whether cascades of the table's models may be chosen as well.
    """

    folds: int = 5
    budgets: int = 8
    seed: int = 0
    sentences: SentenceEncoder | None = None
    cascades: bool = False


class Spent(NamedTuple):
    """Quality and joules of every prompt."""

    quality_q: Floats
    joules_q: Floats


@dataclass
class Study:
    """Outcomes on all prompts, each judged by what had not seen it.

    Args:
        table: What was studied.
        budgets_j: Joules per request that were allowed.
        at_budget: By policy and index of the budget.
        level: By policy, where its curve over budgets first is as good as the best single model; absent if nowhere.
        proven: By policy, the cheapest way whose quality on the training folds had a lower bound within `MARGIN`.
        chosen: By index of the budget, what stood behind the gate on each fold.
        cascades: Names of the cascades that could be chosen, fold after fold.
        extra: Policies that are judged beside `POLICIES`.
    """

    table: Table
    budgets_j: tuple[float, ...]
    at_budget: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    level: dict[str, Spent] = field(default_factory=dict)
    proven: dict[str, Outcome] = field(default_factory=dict)
    chosen: dict[int, list[str]] = field(default_factory=dict)
    curve: dict[tuple[str, int], Spent] = field(default_factory=dict)
    cascades: list[str] = field(default_factory=list)
    extra: tuple[str, ...] = ()

    @property
    def policies(self) -> tuple[str, ...]:
        """All that is judged."""
        return (*POLICIES, *self.extra)

    @property
    def curves(self) -> tuple[str, ...]:
        """Those with a curve over budgets."""
        return (*CURVES, *self.extra)


def budget_grid(table: Table, count: int) -> tuple[float, ...]:
    """Joules per request from the cheapest model's to the best single model's, and beyond to the dearest's."""
    joules_m = table.joules_qm.mean(axis=0)
    low, best = float(joules_m[table.eligible_m].min()), float(joules_m[table.best_single()])
    inner = np.geomspace(low, best, count) if best > low * 1.001 and low > 0.0 else np.array([best])
    beyond = [best * factor for factor in (1.25, 1.6) if best * factor < float(joules_m.max()) * 1.25]
    return tuple(float(f"{budget_j:.6g}") for budget_j in [*inner.tolist(), *beyond])


def fine_budgets(table: Table) -> list[float]:
    """Joules per request on the curve on which equal quality is read off."""
    joules_m = table.joules_qm.mean(axis=0)
    best = float(joules_m[table.best_single()]) * 1.1
    low = float(joules_m[table.eligible_m].min())
    return list(np.geomspace(max(low, 1e-9 * best), best, CURVE)) if best > 0.0 else [0.0] * CURVE
