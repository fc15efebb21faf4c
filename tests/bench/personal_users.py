"""Who the personal benchmark is about: a global expert trained on MNIST, its stored samples, and users it never met.

Two cohorts of ten synthetic writers (slant, turn, width, height, stroke, own symbols), made of MNIST digits that the
global expert has not seen, no digit in both: *tuning* writers, on whom constants of the method were chosen, and
*judged* writers, on whom none was. One new site (optdigits) is judged with them. Where there is no evaluation data, the
world is a small one: the LeNet-5 that ships, and writers made of the scikit-learn digits that it has not seen.
Shapes: n samples, h and w pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from deploy.demo.writer import Writer
from nodes.personal.base import REPLAYED_EVERY
from nodes.personal.learning import Samples, as_input, trainable
from nodes.personal.network import Floats, Network, Stage
from nodes.personal.onnx_file import read_network
from nodes.zoo.catalog import load_catalog

USERS = 10
TUNING, JUDGED, SMALL = "tuning", "judged", "digits"
SMALL_EXPERT = "digits-lenet5"
# First seed of the generator per cohort; its writers are this one and the next nine. 200 and 300 were judged before and
# 100 tuned on: all spent.
COHORTS = {TUNING: 400, JUDGED: 500, SMALL: 600}
MNIST_COHORTS = (TUNING, JUDGED)
PER_USER = 1_500
SIZES, SMALL_SIZES = (20, 100, 300), (20, 100)
HELD_OUT_FROM, SMALL_HELD_OUT_FROM = 400, 100
STORED = 4_000
REPLAYED = 1_000
EPOCHS = 8
BATCH = 64
LENET5 = Network(
    side=28,
    stages=(
        Stage("conv1", conv=True, padding=2, pool=2),
        Stage("conv2", conv=True, pool=2),
        Stage("dense1", conv=False),
        Stage("dense2", conv=False),
        Stage("dense3", conv=False),
    ),
)
_SHAPES = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "dense1": (120, 400), "dense2": (84, 120), "dense3": (10, 84)}


@dataclass(frozen=True, eq=False)
class World:
    """Everything that the benchmark needs.

    Attributes:
        network: The global expert's layers.
        sizes: Numbers of corrections.
        held_out_from: Of a user's samples, those from this one on are never learned.
        replay: Stored generic samples that learning may use.
        stored: Stored generic samples that only thresholds are set on.
        test: Generic test samples.
    """

    network: Network
    weights: dict[str, Floats]
    sizes: tuple[int, ...]
    held_out_from: int
    replay: Samples
    stored: Samples
    test: Samples
    users: dict[str, Samples]


def load_world(folder: Path, cache: Path, *, cohort: str = JUDGED) -> World:
    """Read the data; train the global expert, or take it from `cache` where this recipe was trained before."""
    mnist = np.load(folder / "vision_mnist" / "mnist.npz")
    order = np.random.default_rng(0).permutation(len(mnist["y_train"]))
    images, labels = mnist["x_train"][order].astype(np.float32) / 255, mnist["y_train"][order].astype(np.int64)
    taken = len(MNIST_COHORTS) * USERS * PER_USER
    rows = Samples(images[taken + STORED :], labels[taken + STORED :])
    users = {f"writer{user}": sample for user, sample in enumerate(_writers(images, labels, cohort))}
    users["site"] = _site(folder / "vision_optdigits" / "optdigits_32x32.npz")
    return World(
        network=LENET5,
        weights=_expert(rows, cache),
        sizes=SIZES,
        held_out_from=HELD_OUT_FROM,
        replay=Samples(images[taken : taken + REPLAYED], labels[taken : taken + REPLAYED]),
        stored=Samples(images[taken + REPLAYED : taken + STORED], labels[taken + REPLAYED : taken + STORED]),
        test=Samples(mnist["x_test"].astype(np.float32) / 255, mnist["y_test"].astype(np.int64)),
        users=users,
    )


def small_world() -> World:
    """Of what ships: writers of seeds that no other cohort has, each of the same 360 digits, 260 of them held out."""
    catalog = load_catalog()
    card = next(card for card in catalog.experts if card.name == SMALL_EXPERT)
    generic, fresh = catalog.reference, catalog.held_out
    network, weights = read_network(catalog.model_path(card).read_bytes(), fresh.inputs.shape[-1])
    images, labels_n = fresh.inputs.astype(np.float32), fresh.labels_n.astype(np.int64)
    replayed_n = np.arange(len(generic.inputs)) % REPLAYED_EVERY == 0
    replay, stored = (
        Samples(generic.inputs[rows_n].astype(np.float32), generic.labels_n[rows_n].astype(np.int64))
        for rows_n in (replayed_n, ~replayed_n)
    )
    writers = (Writer.draw(COHORTS[SMALL] + user) for user in range(USERS))
    users = {f"writer{user}": Samples(w.write(images, labels_n), labels_n) for user, w in enumerate(writers)}
    return World(
        network=network,
        weights=dict(weights),
        sizes=SMALL_SIZES,
        held_out_from=SMALL_HELD_OUT_FROM,
        replay=replay,
        stored=stored,
        test=Samples(images, labels_n),
        users=users,
    )


def _writers(images: Floats, labels: NDArray[np.int64], cohort: str) -> Iterator[Samples]:
    before = MNIST_COHORTS.index(cohort) * USERS
    for user in range(USERS):
        mine = slice((before + user) * PER_USER, (before + user + 1) * PER_USER)
        yield Samples(Writer.draw(COHORTS[cohort] + user).write(images[mine], labels[mine]), labels[mine])


def _site(file: Path) -> Samples:
    """Bitmaps of 32 by 32 as MNIST draws its digits: 20 by 20, with a margin."""
    packed = np.load(file)
    bits = torch.from_numpy(np.unpackbits(packed["x"], axis=1).reshape(-1, 1, 32, 32).astype(np.float32))
    small = functional.pad(functional.interpolate(bits, size=(20, 20), mode="area"), (4, 4, 4, 4))
    return Samples(small[:, 0].numpy(), packed["y"].astype(np.int64))


def _expert(rows: Samples, cache: Path) -> dict[str, Floats]:
    mark = hashlib.sha256(f"{EPOCHS} {BATCH} {len(rows)} {_SHAPES}".encode()).hexdigest()[:12]
    file = cache / f"lenet5-mnist-{mark}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        trained = {name: value.detach().numpy() for name, value in _train(rows).items()}
        np.savez(file, allow_pickle=False, **trained)
    with np.load(file) as found:
        return {name: found[name] for name in found.files}


def _train(rows: Samples) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = _fresh(generator)
    forward, labels = trainable(LENET5), torch.from_numpy(rows.labels_n)
    images = as_input(LENET5, rows.images)
    optimizer = torch.optim.Adam(weights.values(), lr=2e-3, weight_decay=1e-5)
    steps = EPOCHS * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows), generator=generator)
        for batch in torch.split(order, BATCH)[: len(rows) // BATCH]:
            loss = functional.cross_entropy(forward(weights, images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return weights


def _fresh(generator: torch.Generator) -> dict[str, torch.Tensor]:
    weights = {}
    for name, shape in _SHAPES.items():
        bound = float(np.prod(shape[1:])) ** -0.5
        for kind, size in (("weight", shape), ("bias", shape[:1])):
            weights[f"{name}.{kind}"] = ((torch.rand(size, generator=generator) * 2 - 1) * bound).requires_grad_()
    return weights
