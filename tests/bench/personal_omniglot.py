"""New symbols from one sheet: how far a local expert learns an alphabet that the global expert has no labels for.

A user is an alphabet and a drawer (Omniglot). They hand in one sheet, each character once; it is *augmented* (moved,
turned and sheared copies, the same for all methods), and what was learned is tested on the sheets of other drawers. The
global expert is the LeNet-5 of the MNIST world, its last layer replaced by an empty one for the alphabet's characters:
it answers by chance. There is no gate and nothing to replay. Reported without a bar.
Shapes: n samples, h and w pixels, c classes, f features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nodes.personal import instant, warp
from nodes.personal.delta import fold, nothing
from nodes.personal.learning import (
    Lesson,
    Pool,
    Recipe,
    Samples,
    answer,
    as_input,
    as_tensors,
    learn,
    optimise,
    prepare,
    stem,
    trainable,
)
from nodes.personal.network import Floats
from tests.bench.harness import Row
from tests.bench.personal_users import LENET5

DRAWERS = (1, 2)
COPIES = 8
STEPS = 120
METHODS = ("instant", "last_layer", "delta", "full")
FULL = Recipe(learning_rate=1e-3, steps=STEPS)
DELTA = Recipe(steps=STEPS)

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """One user: the augmented sheet, other drawers' sheets, and the global expert with room for the alphabet."""

    sheet: Samples
    others: Samples
    weights: dict[str, Floats]
    classes: int


def omniglot_rows(folder: Path, weights: dict[str, Floats]) -> list[Row]:
    """Accuracy on other drawers' sheets, mean over users."""
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    chances = []
    for seed, task in enumerate(_tasks(folder / "vision_omniglot" / "omniglot_small.npz", weights)):
        chances.append(1.0 / task.classes)
        for method in METHODS:
            right_n = _METHODS[method](task, seed) == task.others.labels_n
            found[method].append(float(right_n.mean()))
    sizes: dict[str, object] = {"users": len(chances), "copies": COPIES, "samples": "1 per class"}
    rows = [Row("omniglot.custom.chance", float(np.mean(chances)), "fraction", sizes)]
    for method, values in found.items():
        half95 = float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5)
        rows.append(Row(f"omniglot.custom.{method}", float(np.mean(values)), "fraction", {**sizes, "half95": half95}))
    return rows


def _tasks(file: Path, weights: dict[str, Floats]) -> Iterator[Task]:
    kept = np.load(file)
    height, width = (int(side) for side in kept["shape"])
    ink = np.unpackbits(kept["ink_packed"], axis=1)[:, : height * width].reshape(-1, height, width)
    images = _small(ink.astype(np.float32))
    rng = np.random.default_rng(0)
    for alphabet in np.unique(kept["alphabet"]):
        mine_n = kept["alphabet"] == alphabet
        names, labels_n = np.unique(kept["character"][mine_n], return_inverse=True)
        last, room = LENET5.last, dict(weights)
        room[last.weight] = np.zeros((len(names), weights[last.weight].shape[1]), np.float32)
        room[last.bias] = np.zeros(len(names), np.float32)
        for drawer in DRAWERS:
            own_n = kept["drawer"][mine_n] == drawer
            sheet = Samples(images[mine_n][own_n], labels_n[own_n].astype(np.int64))
            others = Samples(images[mine_n][~own_n], labels_n[~own_n].astype(np.int64))
            yield Task(_augmented(sheet, rng), others, room, len(names))


def _small(ink: Floats) -> Floats:
    """As MNIST draws: 24 by 24 with a margin, and strokes as thick as its own."""
    thick = functional.max_pool2d(torch.from_numpy(ink)[:, None], 5, 1, 2)
    small = functional.interpolate(thick, size=(24, 24), mode="area")
    return np.asarray(functional.pad(small, (2, 2, 2, 2))[:, 0].numpy())


def _augmented(sheet: Samples, rng: np.random.Generator) -> Samples:
    """The sheet and copies of it, each character of each copy in a hand of its own."""
    images = [sheet.images]
    for _ in range(COPIES):
        hands = np.eye(2) + rng.uniform(-0.2, 0.2, (len(sheet), 2, 2))
        moves = rng.uniform(-0.15, 0.15, (len(sheet), 2, 1))
        pairs = zip(sheet.images, np.concatenate([hands, moves], axis=2), strict=True)
        images.append(np.concatenate([warp.apply(image[None], hand) for image, hand in pairs]))
    return Samples(np.concatenate(images), np.tile(sheet.labels_n, 1 + COPIES))


# ---- methods: what they answer on the other sheets


def _instant(task: Task, seed: int) -> Labels:
    features_nf, others_nf = (_features(task, samples) for samples in (task.sheet, task.others))
    even_nc = np.full((len(features_nf), task.classes), 1.0 / task.classes, np.float32)
    scale = float(np.sqrt((features_nf.astype(np.float64) ** 2).mean()))
    size = features_nf.shape[1] + 1
    head = instant.InstantHead(instant.Prior(np.eye(size) / instant.RIDGE, np.zeros((size, task.classes)), scale))
    for feature_f, lack_c in zip(features_nf, instant.residual(even_nc, task.sheet.labels_n), strict=True):
        head.update(feature_f, lack_c)
    even_nc = np.full((len(others_nf), task.classes), 1.0 / task.classes, np.float32)
    return _best(head.correct_many(others_nf, even_nc))


def _last_layer(task: Task, seed: int) -> Labels:
    features, others = (torch.from_numpy(_features(task, samples)) for samples in (task.sheet, task.others))
    last = LENET5.last
    start = as_tensors({name: task.weights[name] for name in (last.weight, last.bias)})

    def forward(values: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, values[last.weight], values[last.bias])

    tuned = _optimised(task, start, forward, features, DELTA, seed)
    return _best(forward(tuned, others).detach().numpy())


def _delta(task: Task, seed: int) -> Labels:
    nobody_n = np.zeros(len(task.sheet), np.bool_)
    lesson = Lesson(LENET5, task.weights, task.sheet, task.sheet)
    ground = prepare(lesson, judges_n=nobody_n, copies=0)
    begin = nothing(LENET5, task.weights)
    learned = learn(ground, begin, judges_n=nobody_n, recipe=DELTA, seed=seed)
    tensors = as_tensors(fold(LENET5, task.weights, learned))
    return _best(answer(LENET5, tensors, stem(LENET5, tensors, task.others.images))[0])


def _full(task: Task, seed: int) -> Labels:
    start = as_tensors(task.weights)
    images = as_input(LENET5, task.sheet.images)
    tuned = _optimised(task, start, trainable(LENET5), images, FULL, seed)
    return _best(answer(LENET5, tuned, stem(LENET5, tuned, task.others.images))[0])


_METHODS: dict[str, Callable[[Task, int], Labels]] = {
    "instant": _instant,
    "last_layer": _last_layer,
    "delta": _delta,
    "full": _full,
}


def _optimised(
    task: Task,
    start: dict[str, torch.Tensor],
    forward: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    recipe: Recipe,
    seed: int,
) -> dict[str, torch.Tensor]:
    labels = torch.from_numpy(task.sheet.labels_n)
    nobody_n = np.zeros(len(labels), np.bool_)
    return optimise(start, forward, Pool(rows, labels, rows, labels), judges_n=nobody_n, recipe=recipe, seed=seed)


def _features(task: Task, samples: Samples) -> Floats:
    tensors = as_tensors(task.weights)
    return answer(LENET5, tensors, stem(LENET5, tensors, samples.images))[1]


def _best(scores_nc: NDArray[np.floating]) -> Labels:
    return np.asarray(scores_nc.argmax(axis=1), np.int64)
