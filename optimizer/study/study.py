"""A cross-fitted study: on every fold, policies are fitted, priced and chosen on the other folds, then judged.

Shape letters: q prompts.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.mapping import Mapper, in_turn
from optimizer.study.fold import Fold
from optimizer.study.outcome import assemble
from optimizer.study.record import CURVE, WITH_CASCADES, Spent, Study, StudySettings, budget_grid
from optimizer.study.table import Table

Ints = NDArray[np.int64]


def run_study(table: Table, settings: StudySettings | None = None, *, mapper: Mapper = in_turn) -> Study:
    """Judge every policy on every prompt by cross-fitting.

    Args:
        table: The measured outcomes.
        settings: How.
        mapper: Does the folds.

    Raises:
        EvidenceError: Too few prompts for the folds.
        NativeMissing: The compiled part is not built.

    Cost: 40 s for 12,000 prompts × 19 models on one core.
    """
    settings = settings or StudySettings()
    if len(table.texts) < 2 * settings.folds:
        raise EvidenceError(f"A study in {settings.folds} folds needs at least {2 * settings.folds} prompts.")
    fold_q = np.random.default_rng(settings.seed).permutation(np.arange(len(table.texts)) % settings.folds)
    study = Study(table, budget_grid(table, settings.budgets), extra=WITH_CASCADES if settings.cascades else ())
    parts = mapper(partial(_judged, study, settings, fold_q), range(settings.folds), "fold")
    order = np.argsort(np.concatenate([np.flatnonzero(fold_q == fold) for fold in range(settings.folds)]))
    for name in ("at_budget", "proven"):
        found = {key: [getattr(part, name)[key] for part in parts] for key in getattr(parts[0], name)}
        setattr(study, name, {key: assemble(outcomes, order) for key, outcomes in found.items()})
    study.chosen = {b: [part.chosen[b][0] for part in parts] for b in range(len(study.budgets_j))}
    study.curve = {
        key: Spent(*(np.concatenate(side)[order] for side in zip(*(part.curve[key] for part in parts), strict=True)))
        for key in parts[0].curve
    }
    study.cascades = [name for part in parts for name in part.cascades]
    study.level = {name: level for name in study.curves if (level := _level(study, name)) is not None}
    return study


def _judged(study: Study, settings: StudySettings, fold_q: Ints, fold: int) -> Study:
    """One fold, judged by fits on the others."""
    inside, outside = np.flatnonzero(fold_q == fold), np.flatnonzero(fold_q != fold)
    return Fold(study.table.rows(outside), study.table.rows(inside), study, settings).run()


def _level(study: Study, name: str) -> Spent | None:
    """Where a policy's curve over budgets first reaches the best single model's quality, between two if need be.

    Every point of the curve was priced on the training folds; only where to read it is decided by its quality.
    """
    points = [study.curve[name, b] for b in range(CURVE)]
    goal = float(study.proven["best_single"].quality_q.mean()) - 1e-9
    quality = [float(point.quality_q.mean()) for point in points]
    first = next((b for b, value in enumerate(quality) if value >= goal), None)
    if first is None or first == 0:
        return None if first is None else points[0]
    share = (goal - quality[first - 1]) / (quality[first] - quality[first - 1])
    return Spent(*((1.0 - share) * a + share * b for a, b in zip(points[first - 1], points[first], strict=True)))
