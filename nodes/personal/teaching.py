"""From a user's corrections to a delta with its gate, and how it stands on what it did not learn. Needs torch.

Corrections lie in four folds, by the order in which they came. A first pass learns from three of them and is judged on
the fourth; a last pass goes on from there and learns from all. What is promoted has seen more than what was judged.
Shapes: n samples, g numbers that the gate sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal.base import Base, Looks
from nodes.personal.delta import fold, nothing
from nodes.personal.gate import Gate
from nodes.personal.judging import BOUND_FRACTION, judge_delta, route
from nodes.personal.keeping import JUDGED_EVERY
from nodes.personal.learning import Lesson, Recipe, Samples, answer, as_tensors, learn, prepare, stem
from nodes.personal.network import Weights
from nodes.personal.promotion import Taught

# From so many corrections on there is more to learn, and less to be made up by shifted copies.
MANY_FROM = 150

Rights = NDArray[np.bool_]


@dataclass(frozen=True)
class Schedule:
    """Two passes, and how many shifted copies of every correction they learn from."""

    first: Recipe
    last: Recipe
    copies: int


# Source: the tuning writers of bench_personalize.
FEW = Schedule(
    Recipe(steps=20, replay_batch=12, learning_rate=1.2e-2), Recipe(steps=28, batch=28, replay_batch=12), copies=3
)
MANY = Schedule(Recipe(steps=20, batch=32, learning_rate=1.5e-2), Recipe(steps=38, batch=40), copies=2)


def teach(base: Base, own: Looks, folds_n: NDArray[np.int64], *, seed: int) -> Taught:
    """A delta for these corrections. Cost: a quarter to half a second of CPU for LeNet-5, judging included.

    Args:
        folds_n: Which fold each correction lies in, 0 to 3.
    """
    schedule = FEW if len(own) < MANY_FROM else MANY
    judged_n, nobody_n = folds_n == JUDGED_EVERY - 1, np.zeros(len(own), np.bool_)
    lesson = Lesson(
        base.network,
        base.weights,
        Samples(own.images, own.labels_n),
        Samples(base.replay.images, base.replay.labels_n),
    )
    ground = prepare(lesson, judges_n=judged_n, copies=schedule.copies)
    begin = nothing(base.network, base.weights)
    first = learn(ground, begin, judges_n=judged_n, recipe=schedule.first, seed=seed)
    gate = gates.discriminate(own[~judged_n].seen_ng, base.replay.seen_ng, seed=seed)
    weights = fold(base.network, base.weights, first)
    gate, _ = _calibrated(base, gate, weights)
    judged = own[judged_n]
    right_n = route(gate, judged, right(base, weights, judged))
    last = learn(ground, first, judges_n=nobody_n, recipe=schedule.last, seed=seed + 1)
    gate = gates.discriminate(own.seen_ng, base.replay.seen_ng, start=gate)
    gate, drop = _calibrated(base, gate, fold(base.network, base.weights, last))
    verdict = judge_delta(gate, own, judged_n, right_n, drop=drop, base=base)
    return Taught(last, verdict, judged_n, schedule.first.samples + schedule.last.samples)


def right(base: Base, weights: Weights, samples: Looks) -> Rights:
    """Where an expert with these weights is right."""
    tensors = as_tensors(weights)
    logits_nc, _ = answer(base.network, tensors, stem(base.network, tensors, samples.images))
    right_n: Rights = logits_nc.argmax(axis=1) == samples.labels_n
    return right_n


def _calibrated(base: Base, gate: Gate, weights: Weights) -> tuple[Gate, float]:
    """The gate with its threshold set, and what stored generic samples lose."""
    stored = base.stored

    def lost(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        asked = stored[rows]
        return asked.right_n.astype(np.float64) - right(base, weights, asked)

    return gates.calibrate(gate, stored.seen_ng, lost, bound_fraction=BOUND_FRACTION)
