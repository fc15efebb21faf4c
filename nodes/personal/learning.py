"""Trains a local expert by back-propagation, on the node, from a handful of corrections. Needs torch.

The first layer and the user's geometry are fixed while the rest trains, so its answers are computed once. Stored
generic samples are replayed beside the corrections: they stand for the classes that the user has not corrected yet.
Shapes: n samples, b batch, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nodes.personal import warp
from nodes.personal.delta import Delta, place
from nodes.personal.network import Floats, Network, Stage, Weights

Tensors = dict[str, torch.Tensor]
Forward = Callable[[Tensors, torch.Tensor], torch.Tensor]

# Fewer than these are too few to stop by.
VALIDATED_FROM = 10
WARPED_FROM = 8
WARP_SAMPLES = 48
# Stored samples that one training replays.
REPLAYED = 400
# Mean probability of the right label that another geometry must gain before it replaces none at all.
WARP_GAIN = 0.02
WARP_Z = 1.0
CHUNK = 512
# Of the picture's height, from -1 to 1: one pixel of 28.
SHIFT = 2.0 / 28.0
SHIFTS = ((-1, 0), (1, 0), (0, -1))


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (n, h, w) or (n, c, h, w) and labels (n,)."""

    images: Floats
    labels_n: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels_n)


@dataclass(frozen=True)
class Recipe:
    """How long and how hard.

    Attributes:
        steps: At most; all of them where no corrections judge.
        patience_steps: Ends when the validation loss has not fallen for so long.
        replay_weight: Of a replayed sample, against a correction's 1.
        smoothing: Share of probability that a label may be wrong by.
    """

    learning_rate: float = 1e-2
    steps: int = 72
    batch: int = 24
    replay_batch: int = 8
    replay_weight: float = 0.5
    check_every: int = 10
    patience_steps: int = 30
    smoothing: float = 0.05

    @property
    def samples(self) -> int:
        """Most forward and backward passes of one sample."""
        return self.steps * (self.batch + self.replay_batch)


@dataclass(frozen=True, eq=False)
class Lesson:
    """Who learns, and from what."""

    network: Network
    weights: Weights
    corrections: Samples
    replay: Samples


@dataclass(frozen=True, eq=False)
class Pool:
    """What one optimisation learns from: rows of corrections and of replay as the forward pass takes them."""

    own: torch.Tensor
    own_labels: torch.Tensor
    replay: torch.Tensor
    replay_labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class Ground:
    """What all passes over one user's corrections share: computed once.

    Attributes:
        geometry: The user's.
        placed: The global expert in that geometry.
        pool: Corrections and their shifted copies; generic samples as the user might have written them.
        source_n: Which correction a row of the pool is, or is a copy of.
    """

    network: Network
    geometry: warp.Affine
    placed: Tensors
    pool: Pool
    source_n: NDArray[np.int64]


def prepare(lesson: Lesson, *, judges_n: NDArray[np.bool_], copies: int) -> Ground:
    """The user's geometry, and what the first layer makes of all samples. Cost: under 0.1 s for LeNet-5.

    Args:
        judges_n: Corrections that have no say in the geometry.
        copies: Of every correction, each moved to another side: what the user might have written as well.
    """
    torch.set_num_threads(1)
    network, weights, corrections = lesson.network, lesson.weights, lesson.corrections
    replay = Samples(lesson.replay.images[:REPLAYED], lesson.replay.labels_n[:REPLAYED])
    mine = Samples(corrections.images[~judges_n], corrections.labels_n[~judges_n])
    geometry = choose_geometry(network, weights, mine, replay)
    placed = as_tensors(place(network, weights, geometry))
    alike = warp.apply(replay.images, warp.inverse(geometry)) if geometry is not warp.IDENTITY else replay.images
    moves = [np.column_stack([np.eye(2), np.array(to) * SHIFT]) for to in SHIFTS[:copies]]
    images = np.concatenate([corrections.images, *(warp.apply(corrections.images, move) for move in moves)])
    labels = torch.from_numpy(np.tile(corrections.labels_n, 1 + len(moves)))
    own, again = stem(network, placed, images), stem(network, placed, alike)
    pool = Pool(own, labels, again, torch.from_numpy(replay.labels_n))
    return Ground(network, geometry, placed, pool, np.tile(np.arange(len(corrections)), 1 + len(moves)))


def learn(ground: Ground, start: Delta, *, judges_n: NDArray[np.bool_], recipe: Recipe, seed: int) -> Delta:
    """The local expert for these corrections, from a start on. Cost: a tenth to a fifth of a second for LeNet-5.

    Args:
        judges_n: Corrections that no gradient comes from.
    """

    def forward(delta: Tensors, stem_map: torch.Tensor) -> torch.Tensor:
        return _rest(ground.network, ground.placed, stem_map, delta)

    rows = torch.from_numpy(np.flatnonzero(~judges_n[ground.source_n]))
    pool = replace(ground.pool, own=ground.pool.own[rows], own_labels=ground.pool.own_labels[rows])
    begin = {name: torch.from_numpy(value) for name, value in start.arrays.items()}
    learned = optimise(begin, forward, pool, judges_n=np.zeros(len(rows), np.bool_), recipe=recipe, seed=seed)
    return Delta({name: value.numpy() for name, value in learned.items()}, ground.geometry)


def optimise(
    start: Tensors, forward: Forward, pool: Pool, *, judges_n: NDArray[np.bool_], recipe: Recipe, seed: int
) -> Tensors:
    """The values with the smallest loss on the corrections that judge, where there are enough of those.

    Otherwise all steps are made and the last values are taken.
    """
    generator = torch.Generator().manual_seed(seed)
    train = torch.from_numpy(np.flatnonzero(~judges_n))
    held = torch.from_numpy(np.flatnonzero(judges_n)) if judges_n.sum() >= VALIDATED_FROM else train[:0]
    values = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(values.values(), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    best_loss, best_step, best = _held_loss(values, forward, pool, held, recipe), 0, _copy(values)
    for step in range(1, recipe.steps + 1):
        loss = _loss(values, forward, pool, train, recipe, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if len(held) and step % recipe.check_every == 0:
            now = _held_loss(values, forward, pool, held, recipe)
            if now < best_loss:
                best_loss, best_step, best = now, step, _copy(values)
            elif step - best_step >= recipe.patience_steps:
                break
    return best if len(held) else _copy(values)


def _loss(
    values: Tensors, forward: Forward, pool: Pool, train: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> torch.Tensor:
    picked = train
    if len(train) > recipe.batch:
        picked = train[torch.randint(len(train), (recipe.batch,), generator=generator)]
    again = torch.randint(len(pool.replay_labels), (recipe.replay_batch,), generator=generator)
    logits = forward(values, torch.cat([pool.own[picked], pool.replay[again]]))
    own = functional.cross_entropy(logits[: len(picked)], pool.own_labels[picked], label_smoothing=recipe.smoothing)
    others: torch.Tensor = functional.cross_entropy(logits[len(picked) :], pool.replay_labels[again])
    return own + recipe.replay_weight * others


def _held_loss(values: Tensors, forward: Forward, pool: Pool, held: torch.Tensor, recipe: Recipe) -> float:
    if not len(held):
        return 0.0
    with torch.no_grad():
        logits = forward(values, pool.own[held])
        return float(functional.cross_entropy(logits, pool.own_labels[held], label_smoothing=recipe.smoothing))


def _copy(values: Tensors) -> Tensors:
    return {name: value.detach().clone() for name, value in values.items()}


# ---- the network in torch


def choose_geometry(network: Network, weights: Weights, corrections: Samples, replay: Samples) -> warp.Affine:
    """The geometry under which the global expert explains the corrections best; none where none is clearly better."""
    if len(corrections) < WARPED_FROM or network.channels != 1 or network.shared:
        return warp.IDENTITY
    images, labels_n = corrections.images[:WARP_SAMPLES], corrections.labels_n[:WARP_SAMPLES]
    value, labels = stem(network, as_tensors(weights), images), torch.from_numpy(labels_n)

    def doubt(option: warp.Affine) -> NDArray[np.floating[Any]]:
        return _doubt(network, as_tensors(place(network, weights, option)), value, labels)

    options = warp.candidates(corrections.images, replay.images)
    found = [(option, doubt(option)) for option in options]
    before_n = found[0][1]
    best, _ = min(found, key=lambda one: one[1].mean())
    found += [(option, doubt(option)) for option in warp.turns(best)]
    best, after_n = min(found, key=lambda one: one[1].mean())
    gain_n = before_n - after_n
    luck = WARP_Z * gain_n.std() / len(images) ** 0.5
    return best if gain_n.mean() > WARP_GAIN + luck else warp.IDENTITY


def _doubt(
    network: Network, placed: Tensors, stem_map: torch.Tensor, labels: torch.Tensor
) -> NDArray[np.floating[Any]]:
    """Probability that is not on the label, per sample: near errors in number, and smooth."""
    logits, _ = answer(network, placed, stem_map)
    doubt_n: NDArray[np.floating[Any]] = (
        1.0 - torch.softmax(torch.from_numpy(logits), 1)[torch.arange(len(labels)), labels].numpy()
    )
    return doubt_n


def as_tensors(weights: Weights) -> Tensors:
    """The same weights for torch."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()}


def trainable(network: Network) -> Forward:
    """The forward pass of full fine-tuning: images in, logits out."""

    def forward(weights: Tensors, images: torch.Tensor) -> torch.Tensor:
        value = images
        for stage in network.stages:
            value = _stage(stage, value, weights[stage.weight], weights[stage.bias], last=stage is network.last)
        return value

    return forward


def as_input(network: Network, images: Floats) -> torch.Tensor:
    """Images as the first layer takes them."""
    value = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    if network.upsample > 1:
        value = functional.interpolate(value, scale_factor=network.upsample, mode="bilinear", align_corners=False)
    return value


def stem(network: Network, weights: Mapping[str, Any], images: Floats) -> torch.Tensor:
    """What the first layer answers: the part that global and local expert share."""
    first = network.first
    with torch.no_grad():
        parts = [
            _stage(first, as_input(network, images[at : at + CHUNK]), weights[first.weight], weights[first.bias])
            for at in range(0, len(images), CHUNK)
        ]
    return torch.cat(parts)


def gate_features(network: Network, stem_map: torch.Tensor) -> Floats:
    """The first layer's means over a few cells and its length per channel, (n, c * cells * cells + c)."""
    cell = stem_map.shape[-1] // network.gate_cells
    means = functional.avg_pool2d(stem_map, cell).flatten(1)
    seen: Floats = torch.cat([means, stem_map.flatten(2).norm(dim=2)], 1).numpy()
    return seen


def answer(network: Network, weights: Tensors, stem_map: torch.Tensor) -> tuple[Floats, Floats]:
    """Logits and penultimate features of the layers behind the first."""
    logits, features = [], []
    with torch.no_grad():
        for value in torch.split(stem_map, CHUNK):
            for stage in network.hidden:
                value = _stage(stage, value, weights[stage.weight], weights[stage.bias])
            last = network.last
            features.append(value.flatten(1))
            logits.append(functional.linear(features[-1], weights[last.weight], weights[last.bias]))
    return torch.cat(logits).numpy(), torch.cat(features).numpy()


def _rest(network: Network, weights: Tensors, stem_map: torch.Tensor, delta: Tensors) -> torch.Tensor:
    """The layers behind the stem with a delta. Applied to what flows: that spares the weights' gradients."""
    value = stem_map
    for stage in network.hidden:
        enter = delta.get(f"{stage.name}.enter")
        if enter is not None:
            value = value + _mixed(value, enter)
        value = _layer(stage, value, weights[stage.weight], weights[stage.bias] if stage.conv is False else None)
        value = _changed(stage, value, weights[stage.bias], delta)
        value = _behind(stage, functional.relu(value))
    last = network.last
    return functional.linear(
        value.flatten(1), weights[last.weight] + delta[last.weight], weights[last.bias] + delta[last.bias]
    )


def _changed(stage: Stage, value: torch.Tensor, bias: torch.Tensor, delta: Tensors) -> torch.Tensor:
    """What `delta.fold` does to weights and offsets, done to the layer's answer."""
    mix, scale, shift = (delta.get(f"{stage.name}.{kind}") for kind in ("mix", "scale", "shift"))
    wide = [-1, 1, 1] if stage.conv else [-1]
    if mix is not None:
        value = value + _mixed(value, mix)
    if stage.conv:
        value = value + bias.reshape(wide)
    if scale is not None:
        value = value * (1 + scale.reshape(wide))
    return value if shift is None else value + shift.reshape(wide)


def _mixed(value: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(value, mix[:, :, None, None])


def _stage(
    stage: Stage, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, last: bool = False
) -> torch.Tensor:
    value = _layer(stage, value, weight, bias)
    return value if last else _behind(stage, functional.relu(value))


def _layer(stage: Stage, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if stage.conv:
        return functional.conv2d(value, weight, bias, stage.stride, stage.padding, 1, stage.groups)
    return functional.linear(value.flatten(1), weight, bias)


def _behind(stage: Stage, value: torch.Tensor) -> torch.Tensor:
    value = functional.max_pool2d(value, stage.pool) if stage.pool > 1 else value
    return value.mean(dim=(2, 3), keepdim=True) if stage.averaged else value
