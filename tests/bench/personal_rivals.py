"""The ways to serve a user that the benchmark of local experts compares, each trained and judged on one scene.

Shapes: n samples, c classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.personal import delta as deltas
from nodes.personal import gate as gates
from nodes.personal import instant
from nodes.personal.base import Base, Looks
from nodes.personal.expert import INSTANT, LocalExpert
from nodes.personal.judging import Verdict, judge_instant
from nodes.personal.keeping import JUDGED_EVERY
from nodes.personal.learning import (
    VALIDATED_FROM,
    Pool,
    Recipe,
    Samples,
    answer,
    as_input,
    as_tensors,
    gate_features,
    optimise,
    stem,
    trainable,
)
from nodes.personal.network import Floats
from nodes.personal.promotion import Taught
from nodes.personal.teaching import teach
from nodes.personal.training import still_better
from tests.bench.personal_users import World

FULL = Recipe(learning_rate=1e-3, steps=200, replay_batch=32, replay_weight=1.0, patience_steps=40, smoothing=0.0)
LAST = Recipe(learning_rate=1e-2, steps=200, replay_batch=32, replay_weight=1.0, patience_steps=40, smoothing=0.0)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Answers:
    """What the global expert makes of a set of samples."""

    samples: Samples
    stem_map: torch.Tensor
    logits_nc: Floats
    features_nf: Floats
    gate_nf: Floats

    @property
    def probabilities_nc(self) -> Floats:
        """As it answers."""
        shares: Floats = torch.softmax(torch.from_numpy(self.logits_nc), 1).numpy()
        return shares

    @property
    def right_n(self) -> NDArray[np.bool_]:
        """Where it is right."""
        right_n: NDArray[np.bool_] = self.logits_nc.argmax(axis=1) == self.samples.labels_n
        return right_n

    @property
    def looks(self) -> Looks:
        """The same as a node keeps it."""
        images, labels_n = self.samples.images, self.samples.labels_n
        return Looks(images, labels_n, self.probabilities_nc, self.features_nf, self.gate_nf)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Answers:
        samples = Samples(self.samples.images[rows], self.samples.labels_n[rows])
        return Answers(samples, self.stem_map[rows], self.logits_nc[rows], self.features_nf[rows], self.gate_nf[rows])


def look(world: World, samples: Samples) -> Answers:
    """Run the global expert."""
    network, weights = world.network, as_tensors(world.weights)
    stem_map = stem(network, weights, samples.images)
    logits_nc, features_nf = answer(network, weights, stem_map)
    return Answers(samples, stem_map, logits_nc, features_nf, gate_features(network, stem_map))


def base_of(world: World, replay: Answers, stored: Answers) -> Base:
    """The global expert as a node has it."""
    prior = instant.prior(replay.features_nf, replay.probabilities_nc, replay.samples.labels_n)
    labels = tuple(str(label) for label in range(replay.logits_nc.shape[1]))
    return Base("lenet5", "digits", "", labels, world.network, world.weights, replay.looks, stored.looks, prior)


@dataclass(frozen=True, eq=False)
class Scene:
    """One user and seed."""

    world: World
    pool: Answers
    held_out: Answers
    replay: Answers
    stored: Answers
    test: Answers
    base: Base
    seed: int


@dataclass(frozen=True)
class Score:
    """One method on one user: where it is right, what generic samples lose, CPU seconds."""

    right_n: NDArray[np.bool_]
    generic_drop: float
    cpu_s: float
    routed_fraction: float = 1.0


def labels_of(scores_nc: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The label with the highest score."""
    return np.asarray(scores_nc.argmax(axis=1), np.int64)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started_s = time.process_time()
    result = work()
    return result, time.process_time() - started_s


def _score(scene: Scene, own_n: NDArray[np.int64], test_n: NDArray[np.int64], cpu_s: float) -> Score:
    right_n = own_n == scene.held_out.samples.labels_n
    drop = scene.test.right_n.mean() - (test_n == scene.test.samples.labels_n).mean()
    return Score(right_n, float(drop), cpu_s)


def fully_tuned(scene: Scene, rows: int, *, unstopped: bool = False) -> Score:
    """Full fine-tuning.

    Args:
        unstopped: It learns from all corrections, for half of the steps, and nothing ends it early.
    """
    own, replay, network = scene.pool[:rows].samples, scene.replay.samples, scene.world.network
    pool = Pool(
        as_input(network, own.images),
        torch.from_numpy(own.labels_n),
        as_input(network, replay.images),
        torch.from_numpy(replay.labels_n),
    )
    start = as_tensors(scene.world.weights)
    judges_n = np.zeros(rows, np.bool_) if unstopped else _judges(rows)
    recipe = _length(FULL, judges_n)
    tuned, cpu_s = _timed(
        lambda: optimise(start, trainable(network), pool, judges_n=judges_n, recipe=recipe, seed=scene.seed)
    )

    def label(samples: Samples) -> NDArray[np.int64]:
        return labels_of(answer(network, tuned, stem(network, tuned, samples.images))[0])

    return _score(scene, label(scene.held_out.samples), label(scene.test.samples), cpu_s)


def last_layer_tuned(scene: Scene, rows: int) -> Score:
    """Fine-tuning of the last layer."""
    own, last = scene.pool[:rows], scene.world.network.last
    pool = Pool(
        torch.from_numpy(own.features_nf),
        torch.from_numpy(own.samples.labels_n),
        torch.from_numpy(scene.replay.features_nf),
        torch.from_numpy(scene.replay.samples.labels_n),
    )
    start = as_tensors({name: scene.world.weights[name] for name in (last.weight, last.bias)})

    def forward(values: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(features, values[last.weight], values[last.bias])

    judges_n = _judges(rows)
    recipe = _length(LAST, judges_n)
    tuned, cpu_s = _timed(lambda: optimise(start, forward, pool, judges_n=judges_n, recipe=recipe, seed=scene.seed))

    def label(answers: Answers) -> NDArray[np.int64]:
        return labels_of(forward(tuned, torch.from_numpy(answers.features_nf)).numpy())

    return _score(scene, label(scene.held_out), label(scene.test), cpu_s)


def instantly(scene: Scene, rows: int) -> tuple[Score, Verdict]:
    """The instant head behind its gate, judged by what a node judges it with."""
    own = scene.pool[:rows]
    residuals_nc = instant.residual(own.probabilities_nc, own.samples.labels_n)
    head = instant.InstantHead(scene.base.prior)

    def work() -> None:
        for feature_f, residual_c in zip(own.features_nf, residuals_nc, strict=True):
            head.update(feature_f, residual_c)
        gates.discriminate_linear(own.gate_nf, scene.replay.gate_nf)

    _, cpu_s = _timed(work)
    verdict = judge_instant(scene.base, head, own.looks)
    covered = instant.coverage(own.samples.labels_n, own.logits_nc.shape[1])
    return _routed(scene, verdict.gate, lambda answers: _corrected(head, answers, covered), cpu_s), verdict


def _corrected(head: instant.InstantHead, answers: Answers, covered: float) -> NDArray[np.int64]:
    own_n = labels_of(head.correct_many(answers.features_nf, answers.probabilities_nc))
    open_n = instant.open_to(answers.probabilities_nc, covered)
    return np.where(open_n, own_n, labels_of(answers.logits_nc))


def by_delta(scene: Scene, rows: int) -> tuple[Score, Score, Taught]:
    """The local expert alone, and behind its gate; trained and judged by what a node trains and judges with."""
    own, network, weights = scene.pool[:rows], scene.world.network, scene.world.weights
    folds_n = np.arange(rows) % JUDGED_EVERY
    taught, cpu_s = _timed(lambda: teach(scene.base, own.looks, folds_n, seed=scene.seed))
    folded = as_tensors(deltas.fold(network, weights, taught.delta))

    def label(answers: Answers) -> NDArray[np.int64]:
        return labels_of(answer(network, folded, answers.stem_map)[0])

    alone = _score(scene, label(scene.held_out), label(scene.test), cpu_s)
    return alone, _routed(scene, taught.verdict.gate, label, cpu_s), taught


def served_of(scene: Scene, rows: int, gated: Score, taught: Taught, first: tuple[Score, Verdict]) -> Score:
    """What a node has in service after these corrections: the delta, else the instant head, else neither."""
    own, (instant_score, instant_verdict), current = scene.pool[:rows].looks, first, None
    if instant_verdict.promoted:
        current = LocalExpert(1, INSTANT, "", instant_verdict.gate, instant_verdict.judgement, rows)
    keeps = current is not None and still_better(scene.base, current, own, np.arange(rows), taught)
    if taught.verdict.promoted and not keeps:
        chosen = gated
    else:
        chosen = instant_score if instant_verdict.promoted else unchanged(scene)
    return replace(chosen, cpu_s=gated.cpu_s + instant_score.cpu_s)


def _judges(rows: int) -> NDArray[np.bool_]:
    """Corrections that fine-tuning stops by; none where they are too few for that."""
    judges_n = np.arange(rows) % JUDGED_EVERY == JUDGED_EVERY - 1
    return judges_n if judges_n.sum() >= VALIDATED_FROM else np.zeros(rows, np.bool_)


def _length(recipe: Recipe, judges_n: NDArray[np.bool_]) -> Recipe:
    """Half of the steps where nothing tells when to stop."""
    return recipe if judges_n.any() else replace(recipe, steps=recipe.steps // 2)


def _routed(scene: Scene, gate: gates.Gate, label: Callable[[Answers], NDArray[np.int64]], cpu_s: float) -> Score:
    def both(answers: Answers) -> NDArray[np.int64]:
        return np.where(gate.score(answers.gate_nf) > 0.0, label(answers), answers.logits_nc.argmax(axis=1))

    score = _score(scene, both(scene.held_out), both(scene.test), cpu_s)
    return Score(score.right_n, score.generic_drop, score.cpu_s, float((gate.score(scene.held_out.gate_nf) > 0).mean()))


def unchanged(scene: Scene) -> Score:
    """Nothing was promoted."""
    return Score(scene.held_out.right_n, 0.0, 0.0, 0.0)
