"""One fold of a study: everything is fitted, priced and chosen on the training prompts, then judged on the others.

Shape letters: q prompts, m models, r rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from optimizer.study import estimates
from optimizer.study.cascades import decided, find_cascades, widened
from optimizer.study.estimates import STEADIED, Bench, Estimate, prepare
from optimizer.study.outcome import Outcome
from optimizer.study.record import BASELINES, MARGIN, RIVAL, Spent, Study, StudySettings, fine_budgets
from optimizer.study.rules import Lottery, Rules, priced, single
from optimizer.study.table import COVERAGE, Table, cheapest_of_the_best

Ints = NDArray[np.int64]

# A rule must seem this many standard errors above the margin on the training prompts: 1.96 for the bound itself, the
# rest because the cheapest of many rules that seem good enough is a lucky one.
_CAUTION = 2.3
_STEPS = 8
# What needs no text, and by how many standard errors on the training prompts heads must be better to be used instead.
_PLAIN = ("task", "static_mixture")
_HURDLE = 1.0
# Ends the names of candidates that have cascades to choose from.
_WIDE = " + cascades"
# A single model may exceed a budget by this much: its mean joules differ from fold to fold, and it cannot be mixed.
_SLACK = 0.03


@dataclass
class Fold:
    """Training prompts, prompts to be judged, the study that they belong to, and how it is made."""

    training: Table
    judged: Table
    study: Study
    settings: StudySettings

    def run(self) -> Study:
        """Everything about one fold."""
        rules, candidates = self._rules()
        out = Study(self.judged, self.study.budgets_j, extra=self.study.extra)
        out.cascades = [*self.judged.models[self.judged.plain :]]
        behind = {"edgewise": candidates}
        if out.extra:
            behind["models_alone"] = {name: one for name, one in candidates.items() if not name.endswith(_WIDE)}
        for b, budget_j in enumerate(out.budgets_j):
            self._at_budget(out, b, budget_j, rules, behind)
        rival = single(np.array([self.training.best_single()]), training=self.training, judged=len(self.judged.texts))
        alone = Outcome.of(rival, Lottery(0, 0, 0.0), self.judged)
        out.proven["best_single"] = alone
        for name in out.curves:
            if name != "best_single":
                offered = list(behind[name].values()) if name in behind else [rules[name]]
                out.proven[name] = self._proven([*offered, rival], rival)
        for b, budget_j in enumerate(fine_budgets(self.study.table)):
            for name in out.curves:
                spent = alone
                if name != "best_single":
                    offer = behind[name][self._behind(behind[name], budget_j)] if name in behind else rules[name]
                    spent = Outcome.of(offer, offer.spend(budget_j)[0], self.judged)
                out.curve[name, b] = Spent(spent.quality_q, spent.joules_q)
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
        rules = {name: self._priced(estimate, cost) for name, estimate in found.items()}
        rules["static_mixture"] = self._static(np.flatnonzero(self.training.eligible_m))
        truth = Estimate(self.training.earned_qm, self.judged.earned_qm)
        rules["oracle"] = self._priced(truth, Estimate(self.training.joules_qm, self.judged.joules_qm))
        gates = estimates.gates(bench, found["task_lookup"])
        candidates = {name: self._priced(estimate, cost) for name, estimate in gates.items()}
        candidates["static_mixture"] = rules["static_mixture"]
        if self.settings.cascades:
            candidates |= self._of_cascades(bench, gates[STEADIED], cost)
            rules["static_cascades"] = candidates["static" + _WIDE]
        return rules, candidates

    def _of_cascades(self, bench: Bench, foreseen: Estimate, cost: Estimate) -> dict[str, Rules]:
        """The same candidates over models and cascades; from here on both tables have the cascades' columns."""
        cascades, goes_on_qk = find_cascades(self.training, foreseen.unseen_qm, cost.unseen_qm, seed=self.settings.seed)
        goes_on_nk = decided(cascades, self.judged, foreseen.judged_nm)
        self.training = widened(self.training, cascades, goes_on_qk)
        self.judged = widened(self.judged, cascades, goes_on_nk)
        wide = replace(bench, training=self.training)
        gates = estimates.gates(wide, estimates.task_lookup(wide))
        cost = estimates.expected_joules(wide)
        found = {name + _WIDE: self._priced(estimate, cost) for name, estimate in gates.items()}
        offered = np.flatnonzero(self.training.choice_qm.mean(axis=0) >= COVERAGE)
        found["static" + _WIDE] = self._static(np.union1d(np.flatnonzero(self.training.eligible_m), offered))
        return found

    def _static(self, columns: Ints) -> Rules:
        return single(columns, training=self.training, judged=len(self.judged.texts))

    def _priced(self, estimate: Estimate, cost: Estimate) -> Rules:
        return priced(estimate, cost, training=self.training, judged=self.judged)

    def _at_budget(
        self,
        out: Study,
        b: int,
        budget_j: float,
        rules: Mapping[str, Rules],
        behind: Mapping[str, Mapping[str, Rules]],
    ) -> None:
        """Every policy within one budget."""
        means: dict[str, float] = {}
        for name, offered in rules.items():
            lottery, means[name] = offered.spend(budget_j)
            out.at_budget[name, b] = Outcome.of(offered, lottery, self.judged)
        for name in ("best_single", "cheapest"):
            out.at_budget[name, b], means[name] = self._single(rules["static_mixture"], budget_j, name)
        out.at_budget["random", b], means["random"] = self._random(rules["static_mixture"], budget_j)
        for name, candidates in behind.items():
            chosen = self._behind(candidates, budget_j)
            offer = candidates[chosen]
            out.at_budget[name, b] = Outcome.of(offer, offer.spend(budget_j)[0], self.judged)
            if name == "edgewise":
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
