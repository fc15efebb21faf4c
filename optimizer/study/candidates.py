"""Which of the many cascades of a table's models are worth a column of their own.

A cascade is worth one where a gate that may choose it, query by query and at some price of a joule, gets more than the
same gate without it, by a standard error on training prompts. Its quality is foreseen from what is foreseen of its
models; what it then really gets is measured. They are taken one after the other, so that none is taken for what another
one does already.

Shape letters: q prompts, m models, p prices, k candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.study.signals import AGREEMENT, FORESEEN, Start, start_of, unseen_chance
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Chances of a right answer under which a cascade may go on; where a signal's chances lie closer together, those under
# which these shares of the training prompts go on.
_CHANCES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
_SHARES = (0.15, 0.35, 0.6)
# Most models that are combined, and most cascades that are taken.
_MODELS = 6
MOST = 12
# A signal is one where so many of a model's answers have it.
_COVERAGE = 0.8
# Standard errors by which a cascade must gain.
_HURDLE = 1.0
# Standard errors by which a signal must predict better on unseen prompts than what was foreseen does alone.
_TELLING = 2.0
_FOLDS = 5
_PRICES = 6
# More prompts than this are not looked at to choose by.
_SAMPLE = 4_000


@dataclass(frozen=True)
class Candidate:
    """A cascade that might be taken.

    Args:
        start: Its first stage.
        second: Column of the model behind it.
        below: The chance of a right answer under which it goes on.
        goes_on_q: Where that is, by calibrations that had not seen the prompt.
    """

    start: Start
    second: int
    below: float
    goes_on_q: Bools


@dataclass(frozen=True)
class Bench:
    """Training prompts, and what the gate foresees of the models, by fits that had not seen the prompt."""

    table: Table
    quality_qm: Floats
    joules_qm: Floats

    @cached_property
    def prices(self) -> Floats:
        """Quality that a joule must buy: nothing, or from what hardly matters to what only the cheapest are worth."""
        mean_m = self.table.joules_qm.mean(axis=0)
        low, high = max(float(mean_m.min()), 1e-12), max(float(mean_m.max()), 1e-12)
        return np.array([0.0, *np.geomspace(1e-2 / high, 1.0 / low, _PRICES - 1)])

    @cached_property
    def score_pqm(self) -> Floats:
        """What the gate weighs the models by, at every price."""
        priced_pqm = self.quality_qm - self.prices[:, None, None] * self.joules_qm
        return np.where(self.table.choice_qm, priced_pqm, -np.inf)

    @cached_property
    def used(self) -> list[int]:
        """The models that the gate uses most, then those that come nearest to being used, by rising joules."""
        best_pq = self.score_pqm.max(axis=2)
        share_m = np.bincount(self.score_pqm.argmax(axis=2).ravel(), minlength=len(self.table.models))
        offered_m: Bools = np.asarray(self.table.choice_qm.any(axis=0))
        with np.errstate(invalid="ignore"):
            short_pqm = np.where(self.table.choice_qm, best_pq[:, :, None] - self.score_pqm, 0.0)
        short_m = short_pqm.mean(axis=1).min(axis=0)
        joules_m = self.table.joules_qm.mean(axis=0)
        ranked = [m for m in np.lexsort((short_m, -share_m)).tolist() if offered_m[m]]
        return sorted(ranked[:_MODELS], key=lambda m: float(joules_m[m]))


def pick(bench: Bench, *, seed: int, most: int = MOST) -> list[Candidate]:
    """The cascades to take, the one that gains most first.

    Args:
        bench: What they are chosen on.
        seed: Of the folds of calibration and of the sample.
        most: How many at most.

    Cost: 4 s for 4,000 prompts or more, 19 models and three signals.
    """
    found = [one for start in _starts(bench, seed=seed) for one in _candidates(bench, start, seed=seed)]
    queries = len(bench.table.texts)
    rows_q = np.random.default_rng(seed).permutation(queries)[:_SAMPLE]
    standing = _Standing.of(bench, rows_q)
    offers = [_Offer.of(bench, one, rows_q) for one in found]
    taken: list[Candidate] = []
    while found and len(taken) < most:
        gains = [standing.gain(offer) for offer in offers]
        best = int(np.argmax(gains))
        if gains[best] <= 0.0:
            break
        standing.take(offers[best])
        taken.append(found[best])
        # What gains nothing beside fewer others gains nothing beside more of them.
        left = [k for k, gain in enumerate(gains) if gain > 0.0 and k != best]
        found, offers = [found[k] for k in left], [offers[k] for k in left]
    return taken


def _starts(bench: Bench, *, seed: int) -> Iterator[Start]:
    """First stages whose answers nearly always have their signal, and whose signal says something."""
    table, firsts = bench.table, bench.used[:-1]
    signals = [*table.signals] or ([FORESEEN] if table.answers_qm is None else [])
    alone = [((m, m) if signal == AGREEMENT else (m,), signal) for signal in signals for m in firsts]
    pairs = [] if table.answers_qm is None else [(two, AGREEMENT) for two in itertools.combinations(sorted(firsts), 2)]
    for members, signal in [*alone, *pairs]:
        start = start_of(table, members, signal, bench.quality_qm)
        answered_q = np.isfinite(start.quality_q)
        covered = answered_q.any() and np.isfinite(start.value_q[answered_q]).mean() >= _COVERAGE
        if covered and (signal == FORESEEN or _tells(start, table.tasks, seed=seed)):
            yield start


def _tells(start: Start, tasks: Sequence[str], *, seed: int) -> bool:
    """Whether the signal predicts an answer's quality better than what was foreseen does alone, on unseen prompts."""
    folds, known_q = min(_FOLDS, len(tasks)), np.isfinite(start.value_q) & np.isfinite(start.quality_q)
    silent = replace(start, value_q=np.where(np.isfinite(start.value_q), 0.0, np.nan))
    loss_2q = [
        _loss(unseen_chance(one, tasks, folds=folds, seed=seed)[known_q], start.quality_q[known_q])
        for one in (silent, start)
    ]
    gain_q = loss_2q[0] - loss_2q[1]
    return bool(gain_q.mean() > _TELLING * gain_q.std() / np.sqrt(len(gain_q)))


def _loss(chance_q: Floats, quality_q: Floats) -> Floats:
    kept_q = np.clip(chance_q, 1e-6, 1.0 - 1e-6)
    return -(quality_q * np.log(kept_q) + (1.0 - quality_q) * np.log(1.0 - kept_q))


def _candidates(bench: Bench, start: Start, *, seed: int) -> Iterator[Candidate]:
    """A first stage with every dearer model behind it, at every threshold that lets another share go on."""
    tasks = bench.table.tasks
    chance_q = unseen_chance(start, tasks, folds=min(_FOLDS, len(tasks)), seed=seed)
    dearest = max(bench.used.index(m) for m in start.members)
    thresholds = np.concatenate([_CHANCES, np.quantile(chance_q, _SHARES, method="higher")])
    for below in np.unique(thresholds).tolist():
        goes_on_q = np.asarray(chance_q < below)
        if 0 < goes_on_q.sum() < len(goes_on_q):
            for second in bench.used[dearest + 1 :]:
                yield Candidate(start, second, float(below), goes_on_q)


@dataclass(frozen=True)
class _Offer:
    """What a candidate promises for each prompt, and what it would really give.

    Args:
        foreseen_q: Quality, from what is foreseen of its models.
        expected_q: Joules, the mean in the task.
        quality_q: Measured.
        joules_q: Likewise.
    """

    foreseen_q: Floats
    expected_q: Floats
    quality_q: Floats
    joules_q: Floats

    @classmethod
    def of(cls, bench: Bench, one: Candidate, rows_q: Ints) -> _Offer:
        """On some of the prompts."""
        table, members = bench.table, [*one.start.members]
        first_q = np.where(
            np.isfinite(one.start.quality_q), one.start.quality_q, table.earned_qm[:, members].mean(axis=1)
        )
        quality_q = np.where(one.goes_on_q, table.earned_qm[:, one.second], first_q)
        joules_q = one.start.joules_q + one.goes_on_q * table.joules_qm[:, one.second]
        known_q3 = np.column_stack(
            [bench.quality_qm[:, members].mean(axis=1), bench.quality_qm[:, one.second], np.ones(len(quality_q))]
        )
        weights_3 = np.linalg.lstsq(known_q3, quality_q, rcond=None)[0]
        offered_q = table.choice_qm[:, [*members, one.second]].all(axis=1)
        foreseen_q = np.where(offered_q, known_q3 @ weights_3, -np.inf)
        count_t = np.bincount(table.task_q)
        expected_q = (np.bincount(table.task_q, joules_q) / np.maximum(count_t, 1))[table.task_q]
        return cls(*(column[rows_q] for column in (foreseen_q, expected_q, quality_q, joules_q)))


@dataclass
class _Standing:
    """What the gate chooses at every price so far.

    Args:
        prices_p: Of a joule.
        score_pq: What it weighs its choice by.
        worth_pq: What that really gives, joules priced.
    """

    prices_p: Floats
    score_pq: Floats
    worth_pq: Floats

    @classmethod
    def of(cls, bench: Bench, rows_q: Ints) -> _Standing:
        """Models alone."""
        score_pqm = bench.score_pqm[:, rows_q]
        choice_pq = score_pqm.argmax(axis=2)
        quality_qm, joules_qm = bench.table.earned_qm[rows_q], bench.table.joules_qm[rows_q]
        rows = np.arange(len(rows_q))
        worth_pq = quality_qm[rows, choice_pq] - bench.prices[:, None] * joules_qm[rows, choice_pq]
        return cls(bench.prices, score_pqm.max(axis=2), worth_pq)

    def _priced(self, quality_q: Floats, joules_q: Floats) -> Floats:
        return np.asarray(quality_q - self.prices_p[:, None] * joules_q)

    def gain(self, offer: _Offer) -> float:
        """What the choice gains at the price where it gains most, less the hurdle."""
        better_pq = self._priced(offer.foreseen_q, offer.expected_q) > self.score_pq
        gain_pq = np.where(better_pq, self._priced(offer.quality_q, offer.joules_q) - self.worth_pq, 0.0)
        error_p = gain_pq.std(axis=1) / np.sqrt(gain_pq.shape[1])
        return float((gain_pq.mean(axis=1) - _HURDLE * error_p).max())

    def take(self, offer: _Offer) -> None:
        """Let the gate choose it too."""
        score_pq = self._priced(offer.foreseen_q, offer.expected_q)
        better_pq = score_pq > self.score_pq
        self.worth_pq = np.where(better_pq, self._priced(offer.quality_q, offer.joules_q), self.worth_pq)
        self.score_pq = np.maximum(score_pq, self.score_pq)
