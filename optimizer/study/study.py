"""A cross-fitted study: on every fold, policies are fitted, priced and chosen on the other folds, then judged.

Shape letters: q prompts, m models, r rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.study import estimates
from optimizer.study.estimates import Estimate, blend, prepare
from optimizer.study.outcome import Outcome, assemble
from optimizer.study.rules import Lottery, Rules, joined, priced, single
from optimizer.study.table import Table

Floats = NDArray[np.float64]

# What others would do; the best of them on the training folds is what the gate must not fall behind.
BASELINES = ("random", "cheapest", "best_single", "task_lookup", "static_mixture", "knn", "kmeans", "tfidf_ridge")
POLICIES = ("edgewise", *BASELINES, "oracle")
# Not a policy that anybody runs: at every budget, the baseline that was best on the training folds.
RIVAL = "best_baseline"

# How far below the best single model's quality counts as level.
MARGIN = 0.003
# A rule must seem this many standard errors above the margin on the training prompts: 1.96 for the bound itself, the
# rest because the cheapest of many rules that seem good enough is a lucky one.
_CAUTION = 2.6
_STEPS = 8


@dataclass(frozen=True)
class StudySettings:
    """How a table is studied.

    Args:
        folds: Parts that are judged in turn.
        budgets: How many budgets between the cheapest model's joules and the best single model's.
        seed: Of folds and samples.
    """

    folds: int = 5
    budgets: int = 8
    seed: int = 0


@dataclass
class Study:
    """Outcomes on all prompts, each judged by what had not seen it.

    Args:
        table: What was studied.
        budgets_j: Joules per request that were allowed.
        at_budget: By policy and index of the budget.
        level: By policy, the cheapest way that on the training folds was as good as the best single model.
        proven: The same with a lower bound within `MARGIN`.
        chosen: By index of the budget, what stood behind the gate on each fold.
    """

    table: Table
    budgets_j: tuple[float, ...]
    at_budget: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    level: dict[str, Outcome] = field(default_factory=dict)
    proven: dict[str, Outcome] = field(default_factory=dict)
    chosen: dict[int, list[str]] = field(default_factory=dict)


def run_study(table: Table, settings: StudySettings | None = None, *, progress: Callable[[str], None] | None = None) -> Study:
    """Judge every policy on every prompt by cross-fitting.

    Args:
        table: The measured outcomes.
        settings: How.
        progress: Is told a line per fold.

    Raises:
        EvidenceError: Too few prompts for the folds.
        NativeMissing: The compiled part is not built.

    Cost: 40 s for 12,000 prompts × 19 models on one core.
    """
    settings = settings or StudySettings()
    if len(table.texts) < 2 * settings.folds:
        raise EvidenceError(f"A study in {settings.folds} folds needs at least {2 * settings.folds} prompts.")
    fold_q = np.random.default_rng(settings.seed).permutation(np.arange(len(table.texts)) % settings.folds)
    study = Study(table, budget_grid(table, settings.budgets))
    parts = []
    for fold in range(settings.folds):
        if progress:
            progress(f"fold {fold + 1} of {settings.folds}")
        inside, outside = np.flatnonzero(fold_q == fold), np.flatnonzero(fold_q != fold)
        parts.append(_Fold(table.rows(outside), table.rows(inside), study, settings.seed).run())
    order = np.argsort(np.concatenate([np.flatnonzero(fold_q == fold) for fold in range(settings.folds)]))
    for name in ("at_budget", "level", "proven"):
        merged = {key: assemble([getattr(part, name)[key] for part in parts], order) for key in getattr(parts[0], name)}
        setattr(study, name, merged)
    study.chosen = {b: [part.chosen[b][0] for part in parts] for b in range(len(study.budgets_j))}
    return study


def budget_grid(table: Table, count: int) -> tuple[float, ...]:
    """Joules per request from the cheapest model's to the best single model's, and beyond to the dearest's."""
    joules_m = table.joules_qm.mean(axis=0)
    low, best = float(joules_m[table.eligible_m].min()), float(joules_m[table.best_single()])
    inner = np.geomspace(low, best, count) if best > low * 1.001 and low > 0.0 else np.array([best])
    beyond = [best * factor for factor in (1.25, 1.6) if best * factor < float(joules_m.max()) * 1.25]
    return tuple(float(f"{budget_j:.6g}") for budget_j in [*inner.tolist(), *beyond])


@dataclass
class _Fold:
    training: Table
    judged: Table
    study: Study
    seed: int

    def run(self) -> Study:
        """Everything about one fold."""
        rules, candidates = self._rules()
        best = self.training.best_single()
        out = Study(self.judged, self.study.budgets_j)
        for b, budget_j in enumerate(out.budgets_j):
            self._at_budget(out, b, budget_j, rules, candidates)
        rival = single(np.array([best]), training=self.training, judged=len(self.judged.texts))
        for name in ("edgewise", "static_mixture", "task_lookup", "knn", "kmeans", "tfidf_ridge", "oracle"):
            offered = list(candidates.values()) if name == "edgewise" else [rules[name]]
            out.level[name] = self._level([*offered, rival], rival)
            out.proven[name] = self._proven([*offered, rival], rival)
        out.level["best_single"] = out.proven["best_single"] = Outcome.of(rival, Lottery(0, 0, 0.0), self.judged)
        return out

    def _rules(self) -> tuple[dict[str, Rules], dict[str, Rules]]:
        bench = prepare(self.training, self.judged, seed=self.seed)
        cost = estimates.expected_joules(bench)
        found = {
            "task_lookup": estimates.task_lookup(bench),
            "knn": estimates.neighbours(bench),
            "kmeans": estimates.clusters(bench),
            "tfidf_ridge": estimates.ridge(bench),
        }
        gates: dict[str, Estimate] = {}
        for penalty in estimates.PENALTIES:
            gates[f"heads {penalty:g}"] = estimates.heads(penalty)(bench)
            gates[f"heads {penalty:g} + task"] = blend(gates[f"heads {penalty:g}"], found["task_lookup"])
        eligible = np.flatnonzero(self.training.eligible_m)
        rules = {name: self._priced(estimate, cost) for name, estimate in found.items()}
        rules["static_mixture"] = single(eligible, training=self.training, judged=len(self.judged.texts))
        truth = Estimate(self.training.earned_qm, self.judged.earned_qm)
        rules["oracle"] = self._priced(truth, Estimate(self.training.joules_qm, self.judged.joules_qm))
        candidates = {name: self._priced(estimate, cost) for name, estimate in gates.items()}
        return rules, {**candidates, **{name: rules[name] for name in ("task_lookup", "static_mixture")}}

    def _priced(self, estimate: Estimate, cost: Estimate) -> Rules:
        return priced(estimate, cost, training=self.training, judged=self.judged)

    def _at_budget(
        self, out: Study, b: int, budget_j: float, rules: Mapping[str, Rules], candidates: Mapping[str, Rules]
    ) -> None:
        """Every policy within one budget."""
        means: dict[str, float] = {}
        for name, offered in rules.items():
            lottery, means[name] = offered.spend(budget_j)
            out.at_budget[name, b] = Outcome.of(offered, lottery, self.judged)
        for name in ("best_single", "cheapest"):
            out.at_budget[name, b], means[name] = self._single(rules["static_mixture"], budget_j, name)
        out.at_budget["random", b], means["random"] = self._random(rules["static_mixture"], budget_j)
        chosen = max(candidates, key=lambda name: candidates[name].spend(budget_j)[1])
        out.at_budget["edgewise", b] = Outcome.of(candidates[chosen], candidates[chosen].spend(budget_j)[0], self.judged)
        out.chosen[b] = [chosen]
        out.at_budget[RIVAL, b] = out.at_budget[max(BASELINES, key=lambda name: means[name]), b]

    def _single(self, models: Rules, budget_j: float, name: str) -> tuple[Outcome, float]:
        """The most accurate model within the budget, or the cheapest."""
        cheapest = int(models.joules_r.argmin())
        within = np.flatnonzero(models.joules_r <= budget_j * (1.0 + 1e-6))
        r = int(within[models.quality_r[within].argmax()]) if name == "best_single" and len(within) else cheapest
        return Outcome.of(models, Lottery(r, r, 0.0), self.judged), float(models.quality_r[r])

    def _random(self, models: Rules, budget_j: float) -> tuple[Outcome, float]:
        """Any model with the same chance, as often as the budget allows, else the cheapest."""
        cheapest, mean_j = int(models.joules_r.argmin()), float(models.joules_r.mean())
        spare_j = budget_j - float(models.joules_r[cheapest])
        share = float(np.clip(spare_j / max(mean_j - float(models.joules_r[cheapest]), 1e-12), 0.0, 1.0))
        chance_r = np.full(len(models.joules_r), share / len(models.joules_r))
        chance_r[cheapest] += 1.0 - share
        return Outcome.mixed(models.judged_rn, chance_r, self.judged), float(chance_r @ models.quality_r)

    def _level(self, offered: list[Rules], rival: Rules) -> Outcome:
        """The cheapest lottery that on the training prompts is as good as the best single model."""
        goal = float(rival.quality_r[0])
        found = [(reached, rules) for rules in offered if (reached := rules.reach(goal)) is not None]
        (lottery, _), rules = min(found, key=lambda entry: entry[0][1])
        return Outcome.of(rules, lottery, self.judged)

    def _proven(self, offered: list[Rules], rival: Rules) -> Outcome:
        """The cheapest lottery that on the training prompts is surely not worse than the best single model."""
        best: tuple[float, Rules, Lottery] = (float(rival.joules_r[0]), rival, Lottery(0, 0, 0.0))
        queries = len(self.study.table.texts)
        for rules in offered:
            for lottery in _lotteries(rules):
                weight = np.array([1.0 - lottery.chance, lottery.chance])
                pair = [lottery.first, lottery.second]
                joules = float(weight @ rules.joules_r[pair])
                if joules >= best[0]:
                    continue
                difference_q = weight @ rules.quality_rq[pair] - rival.quality_rq[0]
                if difference_q.mean() - _CAUTION * difference_q.std() / np.sqrt(queries) >= -MARGIN:
                    best = (joules, rules, lottery)
        return Outcome.of(best[1], best[2], self.judged)


def _lotteries(rules: Rules) -> list[Lottery]:
    edge = rules.hull.tolist()
    pairs = zip(edge, edge[1:], strict=False)
    steps = [Lottery(a, b, step / _STEPS) for a, b in pairs for step in range(_STEPS)]
    return [*steps, Lottery(edge[-1], edge[-1], 0.0)]
