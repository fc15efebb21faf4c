"""Dynamic pruning end to end: what each recorded operating point costs in work, milliseconds and joules.

One row is one checkpoint: accuracy and savings as they were when it was trained (`pruning_rows` says how), and the
milliseconds now, with the recorded masks of 500 test images replayed through the whole network, predictors included.
The weights are random: speed does not depend on them, and the checkpoints are too large to keep here. *Ideal* is ONNX
Runtime on the dense network, in turns with the pruned one, times the share of multiply-accumulates that is kept.
Joules are modelled, never measured: multiply-accumulates times a device profile's constant.

MobileNet's speed is shown with random weights and masks (`pruning_mobilenet`).

Not run: ResNet and MobileNet checkpoints, ImageNet, a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.chain.cpu import Chain
from kernels.native.library import fastest
from nodes.energy.profile import load_profile
from nodes.pruning.cost import dense_macs, sample_macs
from tests.bench import onnx_convs
from tests.bench.harness import Bar, Row, main
from tests.bench.pruning_mobilenet import mobilenet
from tests.bench.pruning_rows import (
    Masks8,
    Recorded,
    layers_of_plan,
    macs_of,
    named_masks,
    random_plan,
    random_weights,
    recorded,
)

PROFILE = "jetson-agx-orin"
WARM_UP = 20
ROUNDS, ROUNDS_FULL = 500, 120
DENSE = "vgg16-dense"
AT_65 = "vgg16-pruned-65"
WIDER = 4

BARS = [
    Bar("of_ideal_worst", 0.85, ">="),
    Bar("at_65_reduction", 0.65, ">="),
    Bar("at_65_over_dense", 2.3, ">="),
    Bar("forecast_error_worst", 0.05, "<="),
    Bar("full_width_of_ideal", 0.85, ">="),
    Bar("full_width_over_dense", 2.3, ">="),
]
# arXiv 2110.08232: VGG16-BN on CIFAR-10, full width, 200 epochs, masks of single filters; multiply-accumulates only.
PAPER = {0.0: 0.9382, 0.56: 0.9373, 0.65: 0.9355, 0.73: 0.9319}


def turns(runners: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each; in every round each runs once, in random order."""
    chance = np.random.default_rng(0)
    names = list(runners)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-WARM_UP, rounds):
        for name in chance.permutation(names):
            started_s = time.perf_counter()
            runners[name](turn)
            if turn >= 0:
                taken[name].append((time.perf_counter() - started_s) * 1e3)
    return {name: float(np.median(ms)) for name, ms in taken.items()}


def pruned(plan: tuple[int | str, ...], masks_ng: Masks8) -> Callable[[int], object]:
    """The pruned network, with the next image's masks each time."""
    chain = Chain(random_plan(plan))
    order = np.random.default_rng(1).permutation(len(masks_ng))
    images, masks = pictures(), [masks_ng[n : n + 1] for n in order]
    return lambda turn: chain(images, masks_ng=masks[turn % len(masks)])


def dense(plan: tuple[int | str, ...]) -> Callable[[int], object]:
    """ONNX Runtime on a network without masks."""
    session = onnx_convs.chain(random_weights(plan))
    image = {"x": pictures()}
    return lambda _: session.run(None, image)


def pictures() -> NDArray[np.float32]:
    """One image of noise."""
    return np.random.default_rng(2).standard_normal((1, 3, 32, 32), dtype=np.float32)


def rows_of(row: Recorded, ms: dict[str, float]) -> list[Row]:
    """Everything about one checkpoint."""
    whole = dense_macs(layers_of_plan(found(DENSE).plan))
    macs = macs_of(row).mean() if row.masks_ng is not None else dense_macs(layers_of_plan(row.plan))
    profile = load_profile(PROFILE)
    facts = row.facts
    sizes: dict[str, object] = {
        "network": "VGG16-BN x 0.25",
        "epochs": facts.get("epochs"),
        "schedule": facts.get("schedule"),
        "further_schedule": facts.get("further_schedule"),
    }
    named = [
        ("accuracy", facts["accuracy"], "1"),
        ("macs", float(macs), "MAC"),
        ("reduction", 1 - float(macs) / whole, "1"),
        ("ms", ms[row.name], "ms"),
        ("modelled_j", float(macs) * profile.j_per_mac + profile.overhead_j, "J modelled"),
        ("over_dense", ms[DENSE] / ms[row.name], "x"),
    ]
    if row.masks_ng is not None:
        named += [
            ("of_ideal", ms[DENSE] * float(macs) / whole / ms[row.name], "x"),
            ("forecast_error", abs(facts["reduction_forecast"] - facts["reduction"]), "1"),
        ]
    return [Row(f"{row.name}_{name}", value, unit, sizes) for name, value, unit in named]


def found(name: str) -> Recorded:
    """A recorded checkpoint."""
    return next(row for row in recorded() if row.name == name)


def full_width(row: Recorded) -> list[Row]:
    """Speed only: each decision of the narrow network taken for four groups of the full one."""
    assert row.masks_ng is not None
    plan = tuple(width if width == "M" else WIDER * int(width) for width in row.plan)
    masks_ng = np.ascontiguousarray(np.repeat(row.masks_ng, WIDER, axis=1))
    layers = layers_of_plan(plan)
    groups = tuple(WIDER * count for count in row.groups)
    macs = sample_macs(layers, named_masks(masks_ng, groups), len(masks_ng)).mean()
    whole_plan = tuple(width if width == "M" else WIDER * int(width) for width in found(DENSE).plan)
    whole = dense_macs(layers_of_plan(whole_plan))
    ms = turns({"dense": dense(whole_plan), "pruned": pruned(plan, masks_ng)}, ROUNDS_FULL)
    sizes: dict[str, object] = {"network": "VGG16-BN", "masks": row.name, "weights": "random: speed only"}
    named = {
        "reduction": (1 - float(macs) / whole, "1"),
        "dense_ms": (ms["dense"], "ms"),
        "ms": (ms["pruned"], "ms"),
        "over_dense": (ms["dense"] / ms["pruned"], "x"),
        "of_ideal": (ms["dense"] * float(macs) / whole / ms["pruned"], "x"),
    }
    return [Row(f"full_width_{name}", value, unit, sizes) for name, (value, unit) in named.items()]


def summary(rows: list[Row]) -> list[Row]:
    """What the bars look at."""
    values = {row.metric: row.value for row in rows}

    def all_of(end: str) -> list[float]:
        return [value for name, value in values.items() if name.endswith(end)]

    return [
        Row("of_ideal_worst", min(all_of("_of_ideal")), "x"),
        Row("forecast_error_worst", max(all_of("_forecast_error")), "1"),
        Row("at_65_reduction", values[f"{AT_65}_reduction"], "1"),
        Row("at_65_over_dense", values[f"{AT_65}_over_dense"], "x"),
    ]


def run() -> list[Row]:
    """All recorded checkpoints of the narrow network, then the full one's speed, then the paper's figures beside."""
    print(f"instruction set: {fastest().name}; not run: checkpoints of ResNet and MobileNet, ImageNet, any GPU")
    points = recorded()
    runners = {row.name: dense(row.plan) if row.masks_ng is None else pruned(row.plan, row.masks_ng) for row in points}
    ms = turns(runners, ROUNDS)
    rows = [line for row in points for line in rows_of(row, ms)]
    reference: dict[str, object] = {"reference": "arXiv 2110.08232, full width, 200 epochs; not run here"}
    paper = [Row(f"paper_vgg16_{100 * saved:.0f}_accuracy", value, "1", reference) for saved, value in PAPER.items()]
    return [*rows, *summary(rows), *full_width(found(AT_65)), *mobilenet(turns), *paper]


if __name__ == "__main__":
    main(stem="pruning", run=run, bars=BARS)
