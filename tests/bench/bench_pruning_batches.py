"""A batch of images under their own masks: run one by one, sorted by mask, or all under the union of their masks.

Batches of recorded masks (`pruning_rows`: the first 500 test images, with random weights, since speed does not depend
on them) run in turns: each image under its own masks in the order of arrival, which is what serving does; the same
sorted by mask, so that neighbours use the same weights; and all of them under the union, as a kernel for whole batches
would have to. A batch *grouped by mask* would gather images that share all masks: how many do is counted, too.

One thread, and its processor time: what else the machine does meanwhile is not counted. Ratios over one by one: below 1
is faster. Not run: a GPU, where batches are worth more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.chain.cpu import Chain
from kernels.native.library import available
from tests.bench.harness import NOT_RUN, Bar, Row, main
from tests.bench.pruning_rows import Masks8, Recorded, macs_of, random_plan, recorded

BATCHES = (8, 32)
WARM_UP, ROUNDS = 3, 40

# Serving runs images one by one: it must not be slower than what a batch could do instead, 5 % for noise.
BARS = [Bar(f"one_by_one_batch_{size}_over_best_worst", 1.05, "<=") for size in BATCHES]


def ways(chain: Chain, masks_ng: Masks8, images: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    """The same batch in three ways."""
    order = np.lexsort(masks_ng.T[::-1])
    by_mask, sorted_images = np.ascontiguousarray(masks_ng[order]), np.ascontiguousarray(images[order])
    union = np.ascontiguousarray(np.broadcast_to(masks_ng.max(axis=0), masks_ng.shape))
    return {
        "one_by_one": lambda: chain(images, masks_ng=masks_ng),
        "sorted": lambda: chain(sorted_images, masks_ng=by_mask),
        "union": lambda: chain(images, masks_ng=union),
    }


def times_ms(chain: Chain, masks_ng: Masks8, size: int) -> dict[str, float]:
    """Median processor milliseconds of a batch; in every round another batch, and each way once, in random order."""
    chance = np.random.default_rng(size)
    images = chance.standard_normal((size, 3, 32, 32), dtype=np.float32)
    taken: dict[str, list[float]] = {}
    for turn in range(-WARM_UP, ROUNDS):
        batch = np.ascontiguousarray(masks_ng[chance.choice(len(masks_ng), size, replace=False)])
        runners = ways(chain, batch, images)
        for name in chance.permutation(list(runners)):
            started_s = time.thread_time()
            runners[name]()
            if turn >= 0:
                taken.setdefault(name, []).append((time.thread_time() - started_s) * 1e3)
    return {name: float(np.median(ms)) for name, ms in taken.items()}


def rows_of(row: Recorded) -> list[Row]:
    """One checkpoint's batches."""
    assert row.masks_ng is not None
    chain, rows = Chain(random_plan(row.plan)), []
    for size in BATCHES:
        ms = times_ms(chain, row.masks_ng, size)
        sizes: dict[str, object] = {"masks": row.name, "batch": size, "weights": "random: speed only"}
        at = f"{row.name}_batch_{size}"
        rows += [Row(f"{at}_one_by_one_ms", ms["one_by_one"], "ms", sizes)]
        rows += [
            Row(f"{at}_{way}_over_one_by_one", ms[way] / ms["one_by_one"], "x", sizes) for way in ("sorted", "union")
        ]
        rows += [Row(f"{at}_sharing_all_masks", sharing(row.masks_ng, size), "1", sizes)]
    return [*rows, Row(f"{row.name}_macs", float(macs_of(row).mean()), "MAC", {"masks": row.name})]


def sharing(masks_ng: Masks8, size: int) -> float:
    """Share of the images of a batch that have another with the same masks in it, over all whole batches."""
    shared = []
    for start in range(0, len(masks_ng) - size + 1, size):
        _, place_n, count = np.unique(masks_ng[start : start + size], axis=0, return_inverse=True, return_counts=True)
        shared.append(float((count[place_n.ravel()] > 1).mean()))
    return float(np.mean(shared))


def summary(rows: list[Row]) -> list[Row]:
    """How much the best other way would save where it would save most."""
    worst = []
    for size in BATCHES:
        others = [
            row.value for row in rows if f"_batch_{size}_" in row.metric and row.metric.endswith("over_one_by_one")
        ]
        worst.append(Row(f"one_by_one_batch_{size}_over_best_worst", 1 / min(*others, 1.0), "x", {"batch": size}))
    return worst


def run() -> list[Row]:
    """All recorded checkpoints that have masks."""
    if not available():
        print("not run: no compiled library")
        raise SystemExit(NOT_RUN)
    rows = [line for row in recorded() if row.masks_ng is not None for line in rows_of(row)]
    return [*rows, *summary(rows)]


if __name__ == "__main__":
    main(stem="pruning_batches", run=run, bars=BARS)
