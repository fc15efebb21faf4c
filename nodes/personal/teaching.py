"""From a user's corrections to a delta with its gate, and how it stands on what it did not learn. Needs torch.

Corrections lie in four folds, by the order in which they came. Few corrections are *crossed*: four candidates, each
learned without one fold and judged on it, so that every correction judges; the delta itself then learns from all. From
`CROSSED_BELOW` on one fold judges, which also ends the training early, and a last pass from there learns from all.
What is promoted has thus seen more than what was judged. Shapes: n samples, g numbers that the gate sees.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal.base import Base, Looks
from nodes.personal.delta import Delta, fold
from nodes.personal.gate import Gate
from nodes.personal.judging import FEW_Z, MANY_Z, Verdict, calibrated, route, verdict
from nodes.personal.keeping import JUDGED_EVERY
from nodes.personal.learning import Lesson, Recipe, Samples, answer, as_tensors, learn, stem
from nodes.personal.network import Weights

# From so many corrections on, a fold of them is enough to judge by.
CROSSED_BELOW = 150
# Fewer corrections are left to the instant tier.
LEAST_CORRECTIONS = 20
FEW = Recipe(replay_batch=16, replay_weight=0.75, shifts=4)
MANY = Recipe(steps=30, check_every=15)
LAST_PASS = Recipe(steps=60, shifts=2)

Rights = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Taught:
    """A delta, and how it stands.

    Attributes:
        verdict: Its gate; its judgement on the corrections at `judged_n`.
        judged_n: Which corrections judged.
        samples: Forward and backward passes of one sample that this took at most.
        judging_s: CPU seconds that went into judging on stored samples.
    """

    delta: Delta
    verdict: Verdict
    judged_n: Rights
    samples: int
    judging_s: float


@dataclass(frozen=True, eq=False)
class _Candidate:
    delta: Delta
    gate: Gate
    stored_n: Rights
    judging_s: float


def teach(base: Base, own: Looks, folds_n: NDArray[np.int64], *, seed: int) -> Taught:
    """A delta for these corrections. Cost: half a second to two seconds of CPU for LeNet-5.

    Args:
        folds_n: Which fold each correction lies in, 0 to 3.
    """
    crossed = len(own) < CROSSED_BELOW
    judges = range(JUDGED_EVERY) if crossed else (JUDGED_EVERY - 1,)
    recipe, last = (FEW, FEW) if crossed else (MANY, LAST_PASS)
    right_n, judging_s, start = own.right_n.copy(), 0.0, None
    for number in judges:
        judges_n = folds_n == number
        tried = _candidate(base, own, judges_n, recipe=recipe, seed=seed, crossed=crossed)
        judging_s += tried.judging_s
        judged = own[judges_n]
        right_n[judges_n] = route(tried.gate, judged, right(base, _folded(base, tried.delta), judged))
        start = None if crossed else tried.delta
    final = _candidate(base, own, np.zeros(len(own), np.bool_), recipe=last, seed=seed, start=start)
    judged_n = np.isin(folds_n, list(judges))
    stands = verdict(
        base,
        final.gate,
        judged=own[judged_n],
        right_n=right_n[judged_n],
        stored_n=final.stored_n,
        z=FEW_Z if crossed else MANY_Z,
    )
    samples = len(judges) * recipe.samples + last.samples
    return Taught(final.delta, stands, judged_n, samples, judging_s + final.judging_s)


def right(base: Base, weights: Weights, samples: Looks) -> Rights:
    """Where an expert with these weights is right."""
    tensors = as_tensors(weights)
    logits_nc, _ = answer(base.network, tensors, stem(base.network, tensors, samples.images))
    right_n: Rights = logits_nc.argmax(axis=1) == samples.labels_n
    return right_n


def _candidate(
    base: Base,
    own: Looks,
    judges_n: Rights,
    *,
    recipe: Recipe,
    seed: int,
    crossed: bool = False,
    start: Delta | None = None,
) -> _Candidate:
    """A delta that learned from all but the judges, with its gate."""
    # A fold that every correction's verdict hangs on must not end the training as well.
    lesson_own = own[~judges_n] if crossed else own
    unlearned_n = judges_n[~judges_n] if crossed else judges_n
    lesson = Lesson(
        base.network,
        base.weights,
        Samples(lesson_own.images, lesson_own.labels_n),
        Samples(base.replay.images, base.replay.labels_n),
    )
    delta = learn(lesson, judges_n=unlearned_n, recipe=recipe, seed=seed, start=start)
    gate = gates.discriminate(own[~judges_n].seen_ng, base.replay.seen_ng, seed=seed)
    started_s = time.process_time()
    stored_n = right(base, _folded(base, delta), base.stored)
    gate = calibrated(base, gate, stored_n)
    return _Candidate(delta, gate, stored_n, time.process_time() - started_s)


def _folded(base: Base, delta: Delta) -> Weights:
    return fold(base.network, base.weights, delta)
