"""The figures of a study: rows by policy and budget with paired intervals, and what they come to.

Shape letters: q prompts, o outcomes, b bootstrap resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.study.outcome import Outcome, bootstrap, interval
from optimizer.study.record import MARGIN, RIVAL, Spent, Study

Floats = NDArray[np.float64]

# Gates that save less than this share of task lookup's joules at equal quality earn nothing.
WORTH = 0.95


@dataclass(frozen=True)
class Row:
    """One policy within one budget; quality with its 95 % interval over prompts."""

    policy: str
    budget_j: float
    quality: float
    quality_low: float
    quality_high: float
    j_per_query: float
    ms_p95: float


@dataclass(frozen=True)
class Against:
    """The gate against the best baseline chosen on the training folds, within one budget; paired by prompt.

    Args:
        budget_j: The budget.
        difference: Mean quality of the gate minus the baseline's.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_worse: One-sided p-value of "the gate is worse".
    """

    budget_j: float
    difference: float
    low: float
    high: float
    p_worse: float


@dataclass(frozen=True)
class Held:
    """A policy's joules beside the best single model's, and the quality that goes with them.

    Args:
        ratio: Of joules.
        difference: Mean quality minus the best single model's.
        low: Lower end of its 95 % interval.
        high: Upper end.
        holds: Whether the lower end is within `MARGIN` of the best single model's.
    """

    ratio: float
    difference: float
    low: float
    high: float
    holds: bool


def rows_of(study: Study) -> list[Row]:
    """A row per policy and budget, resampled together."""
    keys = [(name, b) for b in range(len(study.budgets_j)) for name in study.policies]
    outcomes = [study.at_budget[key] for key in keys]
    mean_bo = bootstrap(np.column_stack([outcome.quality_q for outcome in outcomes]))
    rows = []
    for (name, b), outcome, mean_b in zip(keys, outcomes, mean_bo.T, strict=True):
        low, high = interval(mean_b)
        figures = (outcome.quality, low, high, outcome.energy_j, outcome.ms_quantile(0.95))
        rows.append(Row(name, study.budgets_j[b], *figures))
    return rows


def against_rival(study: Study) -> list[Against]:
    """The gate against the best baseline at every budget."""
    budgets = range(len(study.budgets_j))
    pairs = [(study.at_budget["edgewise", b], study.at_budget[RIVAL, b]) for b in budgets]
    difference_qo = np.column_stack([ours.quality_q - theirs.quality_q for ours, theirs in pairs])
    mean_bo = bootstrap(difference_qo)
    rows = []
    for b in budgets:
        low, high = interval(mean_bo[:, b])
        p_worse = (1.0 + float((mean_bo[:, b] >= 0.0).sum())) / (1.0 + len(mean_bo))
        rows.append(Against(study.budgets_j[b], float(difference_qo[:, b].mean()), low, high, p_worse))
    return rows


def significantly_worse(against: list[Against], *, level: float = 0.025) -> int:
    """At how many budgets the gate is worse, by Holm's step-down over the budgets (two-sided 95 % by default)."""
    worse = 0
    for step, p_worse in enumerate(sorted(row.p_worse for row in against)):
        if p_worse > level / (len(against) - step):
            break
        worse += 1
    return worse


def held(outcomes: Mapping[str, Outcome | Spent]) -> dict[str, Held]:
    """Joules and quality of policies beside the best single model's."""
    rival = outcomes["best_single"]
    names = [*outcomes]
    mean_bo = bootstrap(np.column_stack([outcomes[name].quality_q - rival.quality_q for name in names]))
    rival_j = float(rival.joules_q.mean())
    found = {}
    for name, mean_b in zip(names, mean_bo.T, strict=True):
        joules, quality_q = float(outcomes[name].joules_q.mean()), outcomes[name].quality_q
        ratio = joules / rival_j if rival_j else 1.0
        low, high = interval(mean_b)
        found[name] = Held(ratio, float((quality_q - rival.quality_q).mean()), low, high, low >= -MARGIN)
    return found


def gap_closed(study: Study) -> dict[str, float | None]:
    """Share of the way from the best single model's quality to the oracle's, within the best single model's joules."""
    budget = int(np.argmin([abs(budget_j - study.proven["best_single"].energy_j) for budget_j in study.budgets_j]))
    base = study.proven["best_single"].quality
    gap = study.at_budget["oracle", budget].quality - base
    return {
        name: (study.at_budget[name, budget].quality - base) / gap if gap > 1e-9 else None
        for name in study.policies
        if name != "oracle"
    }


def earns(proven: Mapping[str, Held]) -> bool:
    """Whether the gate saves joules beside knowing the task, at a quality that both surely hold."""
    return proven["edgewise"].ratio <= WORTH * proven["task_lookup"].ratio and proven["edgewise"].holds


def _of_cascades(study: Study, proven: Mapping[str, Held]) -> dict[str, Any]:
    """Which cascades could be chosen, in how many folds each, and whether they save joules beside models alone."""
    if not study.extra:
        return {}
    counted = Counter(study.cascades)
    ours, alone = proven["edgewise"], proven["models_alone"]
    earned = ours.holds and ours.ratio <= WORTH * alone.ratio
    return {"cascades": dict(counted.most_common()), "cascades_earn": earned}


def summarise(study: Study) -> dict[str, Any]:
    """Everything as plain values, see `deploy/docs/gate.md`."""
    level, proven = held(study.level), held(study.proven)
    against = against_rival(study)
    best = study.table.best_single()
    return {
        "rows": rows_of(study),
        "joules_at_best_single_quality": {name: level[name].ratio if name in level else None for name in study.curves},
        "oracle_gap_closed": gap_closed(study),
        "at_best_single_quality": level,
        "surely_at_best_single_quality": proven,
        "against_best_baseline": against,
        "budgets_significantly_worse": significantly_worse(against),
        "gate_earns": earns(proven),
        "best_single": {
            "model": study.table.models[best],
            "quality": study.proven["best_single"].quality,
            "j_per_query": study.proven["best_single"].energy_j,
        },
        "prompts": len(study.table.texts),
        "models": len(study.table.models),
        "tasks": len(set(study.table.tasks)),
        **_of_cascades(study, proven),
        "behind_the_gate": [sorted(set(study.chosen[b])) for b in sorted(study.chosen)],
        "energy": "modelled: base + joules per output token × tokens, from the arms file",
    }
