"""A cross-fitted study: on every fold, policies are fitted, priced and chosen on the other folds, then judged.

Shape letters: q prompts, m models, r rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.sentences import SentenceEncoder
from optimizer.mapping import Mapper, in_turn
from optimizer.study import estimates
from optimizer.study.estimates import Estimate, prepare
from optimizer.study.outcome import Outcome, assemble
from optimizer.study.rules import Lottery, Rules, priced, single
from optimizer.study.table import Table, cheapest_of_the_best

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What others would do; the best of them on the training folds is what the gate must not fall behind.
BASELINES = ("random", "cheapest", "best_single", "task_lookup", "static_mixture", "knn", "kmeans", "tfidf_ridge")
POLICIES = ("edgewise", *BASELINES, "oracle")
# Not a policy that anybody runs: at every budget, the baseline that was best on the training folds.
RIVAL = "best_baseline"
# Policies that have a curve over budgets.
CURVES = ("edgewise", "task_lookup", "static_mixture", "knn", "kmeans", "tfidf_ridge", "oracle", "best_single")

# How far below the best single model's quality counts as level.
MARGIN = 0.003
# A rule must seem this many standard errors above the margin on the training prompts: 1.96 for the bound itself, the
# rest because the cheapest of many rules that seem good enough is a lucky one.
_CAUTION = 2.3
_STEPS = 8
# What needs no text, and by how many standard errors on the training prompts heads must be better to be used instead.
_PLAIN = ("task", "static_mixture")
_HURDLE = 1.0
# A single model may exceed a budget by this much: its mean joules differ from fold to fold, and it cannot be mixed.
_SLACK = 0.03
# Budgets of the fine curve on which equal quality is read off.
_CURVE = 24


@dataclass(frozen=True)
class StudySettings:
    """How a table is studied.

    Args:
        folds: Parts that are judged in turn.
        budgets: How many budgets between the cheapest model's joules and the best single model's.
        seed: Of folds and samples.
        sentences: An encoder from outside, whose embeddings the gate may look at too.
    """

    folds: int = 5
    budgets: int = 8
    seed: int = 0
    sentences: SentenceEncoder | None = None


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
    """

    table: Table
    budgets_j: tuple[float, ...]
    at_budget: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    level: dict[str, Spent] = field(default_factory=dict)
    proven: dict[str, Outcome] = field(default_factory=dict)
    chosen: dict[int, list[str]] = field(default_factory=dict)
    curve: dict[tuple[str, int], Spent] = field(default_factory=dict)


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
    study = Study(table, budget_grid(table, settings.budgets))
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
    study.level = {name: level for name in CURVES if (level := _level(study, name)) is not None}
    return study


def _judged(study: Study, settings: StudySettings, fold_q: Ints, fold: int) -> Study:
    """One fold, judged by fits on the others."""
    inside, outside = np.flatnonzero(fold_q == fold), np.flatnonzero(fold_q != fold)
    return _Fold(study.table.rows(outside), study.table.rows(inside), study, settings).run()


def _level(study: Study, name: str) -> Spent | None:
    """Where a policy's curve over budgets first reaches the best single model's quality, between two if need be.

    Every point of the curve was priced on the training folds; only where to read it is decided by its quality.
    """
    points = [study.curve[name, b] for b in range(_CURVE)]
    goal = float(study.proven["best_single"].quality_q.mean()) - 1e-9
    quality = [float(point.quality_q.mean()) for point in points]
    first = next((b for b, value in enumerate(quality) if value >= goal), None)
    if first is None or first == 0:
        return None if first is None else points[0]
    share = (goal - quality[first - 1]) / (quality[first] - quality[first - 1])
    return Spent(*((1.0 - share) * a + share * b for a, b in zip(points[first - 1], points[first], strict=True)))


def budget_grid(table: Table, count: int) -> tuple[float, ...]:
    """Joules per request from the cheapest model's to the best single model's, and beyond to the dearest's."""
    joules_m = table.joules_qm.mean(axis=0)
    low, best = float(joules_m[table.eligible_m].min()), float(joules_m[table.best_single()])
    inner = np.geomspace(low, best, count) if best > low * 1.001 and low > 0.0 else np.array([best])
    beyond = [best * factor for factor in (1.25, 1.6) if best * factor < float(joules_m.max()) * 1.25]
    return tuple(float(f"{budget_j:.6g}") for budget_j in [*inner.tolist(), *beyond])


def _fine(table: Table) -> list[float]:
    joules_m = table.joules_qm.mean(axis=0)
    best = float(joules_m[table.best_single()]) * 1.1
    low = float(joules_m[table.eligible_m].min())
    return list(np.geomspace(max(low, 1e-9 * best), best, _CURVE)) if best > 0.0 else [0.0] * _CURVE


@dataclass
class _Fold:
    training: Table
    judged: Table
    study: Study
    settings: StudySettings

    def run(self) -> Study:
        """Everything about one fold."""
        rules, candidates = self._rules()
        best = self.training.best_single()
        out = Study(self.judged, self.study.budgets_j)
        for b, budget_j in enumerate(out.budgets_j):
            self._at_budget(out, b, budget_j, rules, candidates)
        rival = single(np.array([best]), training=self.training, judged=len(self.judged.texts))
        alone = Outcome.of(rival, Lottery(0, 0, 0.0), self.judged)
        for name in CURVES[:-1]:
            offered = list(candidates.values()) if name == "edgewise" else [rules[name]]
            out.proven[name] = self._proven([*offered, rival], rival)
        out.proven["best_single"] = alone
        for b, budget_j in enumerate(_fine(self.study.table)):
            for name in CURVES[:-1]:
                offer = candidates[self._behind(candidates, budget_j)] if name == "edgewise" else rules[name]
                spent = Outcome.of(offer, offer.spend(budget_j)[0], self.judged)
                out.curve[name, b] = Spent(spent.quality_q, spent.joules_q)
            out.curve["best_single", b] = Spent(alone.quality_q, alone.joules_q)
        return out

    def _behind(self, candidates: Mapping[str, Rules], budget_j: float) -> str:
        """What stands behind the gate: heads where they earn it on the training prompts, else what needs no text."""
        plain = max(_PLAIN, key=lambda name: candidates[name].spend(budget_j)[1])
        plain_q = candidates[plain].expected(candidates[plain].spend(budget_j)[0])
        gain = {plain: 0.0}
        for name in candidates.keys() - set(_PLAIN):
            gain_q = candidates[name].expected(candidates[name].spend(budget_j)[0]) - plain_q
            gain[name] = float(gain_q.mean() - _HURDLE * gain_q.std() / np.sqrt(len(gain_q)))
        return max(sorted(gain), key=lambda name: gain[name])

    def _rules(self) -> tuple[dict[str, Rules], dict[str, Rules]]:
        bench = prepare(self.training, self.judged, seed=self.settings.seed, sentences=self.settings.sentences)
        cost = estimates.expected_joules(bench)
        found = {
            "task_lookup": estimates.task_lookup(bench),
            "knn": estimates.neighbours(bench),
            "kmeans": estimates.clusters(bench),
            "tfidf_ridge": estimates.ridge(bench),
        }
        eligible = np.flatnonzero(self.training.eligible_m)
        rules = {name: self._priced(estimate, cost) for name, estimate in found.items()}
        rules["static_mixture"] = single(eligible, training=self.training, judged=len(self.judged.texts))
        truth = Estimate(self.training.earned_qm, self.judged.earned_qm)
        rules["oracle"] = self._priced(truth, Estimate(self.training.joules_qm, self.judged.joules_qm))
        gates = estimates.gates(bench, found["task_lookup"])
        candidates = {name: self._priced(estimate, cost) for name, estimate in gates.items()}
        return rules, {**candidates, "static_mixture": rules["static_mixture"]}

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
        chosen = self._behind(candidates, budget_j)
        out.at_budget["edgewise", b] = Outcome.of(
            candidates[chosen], candidates[chosen].spend(budget_j)[0], self.judged
        )
        out.chosen[b] = [chosen]
        out.at_budget[RIVAL, b] = out.at_budget[max(BASELINES, key=lambda name: means[name]), b]

    def _single(self, models: Rules, budget_j: float, name: str) -> tuple[Outcome, float]:
        """The most accurate model within the budget, or the cheapest."""
        cheapest = int(models.joules_r.argmin())
        within = np.flatnonzero(models.joules_r <= budget_j * (1.0 + _SLACK))
        r = cheapest
        if name == "best_single" and len(within):
            r = int(within[cheapest_of_the_best(models.quality_r[within], models.joules_r[within])])
        return Outcome.of(models, Lottery(r, r, 0.0), self.judged), float(models.quality_r[r])

    def _random(self, models: Rules, budget_j: float) -> tuple[Outcome, float]:
        """Any model with the same chance, as often as the budget allows, else the cheapest."""
        cheapest, mean_j = int(models.joules_r.argmin()), float(models.joules_r.mean())
        spare_j = budget_j - float(models.joules_r[cheapest])
        share = float(np.clip(spare_j / max(mean_j - float(models.joules_r[cheapest]), 1e-12), 0.0, 1.0))
        chance_r = np.full(len(models.joules_r), share / len(models.joules_r))
        chance_r[cheapest] += 1.0 - share
        return Outcome.mixed(models.judged_rn, chance_r, self.judged), float(chance_r @ models.quality_r)

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
    pairs = pairwise(edge)
    steps = [Lottery(a, b, step / _STEPS) for a, b in pairs for step in range(_STEPS)]
    return [*steps, Lottery(edge[-1], edge[-1], 0.0)]
