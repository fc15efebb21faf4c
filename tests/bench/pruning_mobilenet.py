"""MobileNetV1's speed in `bench_pruning`: random weights, half of each step's groups at random, other masks each run.

*Ideal* is ONNX Runtime on the whole network, in turns, times the share of multiply-accumulates that is kept. Its
answers differ from ours by the offsets of channels that were silent before a depthwise convolution, which ours keeps
silent as the method asks; `tests/kernels` hold ours to the formulas. No bar stands here: those are for trained
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.chain.cpu import Chain
from kernels.chain.plan import ChainPlan, shrunk
from nodes.pruning.cost import Layer, dense_macs, sample_macs
from tests.bench import onnx_convs
from tests.bench.harness import Row
from tests.bench.pruning_rows import named_masks
from tests.kernels.chains import random_separable

# Channels of each block at full width, and its stride: Howard et al., arXiv 1704.04861, for 32x32 images.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
WIDTHS = (0.25, 0.5, 1.0)
MASKS, SIDE, ROUNDS = 64, 32, 120

Turns = Callable[[dict[str, Callable[[int], object]], int], dict[str, float]]


def mobilenet(turns: Turns) -> list[Row]:
    """Rows of every width; `turns` times runners in turns."""
    return [row for width in WIDTHS for row in _rows(width, turns)]


def _rows(width: float, turns: Turns) -> list[Row]:
    plan = random_separable([(int(width * channels), stride) for channels, stride in BLOCKS], inputs=3, side=SIDE)
    groups = plan.groups
    masks_ng = np.random.default_rng(0).integers(0, 2, (MASKS, sum(groups))).astype(np.uint8)
    masks_ng[:, : groups[0]] = 1  # The stem has no predictor.
    layers = layers_of_plan(plan)
    named = named_masks(masks_ng, groups)
    kept = float(sample_macs(layers, named, MASKS).mean()) / dense_macs(layers)
    image = np.random.default_rng(2).standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    session, chain, rows = onnx_convs.chain(plan), Chain(plan), [masks_ng[n : n + 1] for n in range(MASKS)]
    ms = turns(
        {
            "dense": lambda _: session.run(None, {"x": image}),
            "pruned": lambda turn: chain(image, masks_ng=rows[turn % MASKS]),
        },
        ROUNDS,
    )
    sizes: dict[str, object] = {"network": f"MobileNetV1 x {width:g}", "masks": "half, random", "weights": "random"}
    found = {
        "reduction": (1 - kept, "1"),
        "dense_ms": (ms["dense"], "ms"),
        "ms": (ms["pruned"], "ms"),
        "over_dense": (ms["dense"] / ms["pruned"], "x"),
        "of_its_ideal": (ms["dense"] * kept / ms["pruned"], "x"),
    }
    return [Row(f"mobilenet_{width:g}_{name}", value, unit, sizes) for name, (value, unit) in found.items()]


def layers_of_plan(plan: ChainPlan) -> list[Layer]:
    """The layers of a separable plan, named as `named_masks` names a chain's."""
    layers: list[Layer] = []
    side, inputs, source = plan.side, plan.inputs, None
    for index, step in enumerate(plan.steps):
        name, outputs, pixels = f"convs.{index}", len(step.bias_o), shrunk(step, side) ** 2
        if step.depthwise is not None:
            layers.append(Layer(f"filters.{index}", inputs, inputs, 9, pixels, source=source, depthwise=True))
        gate = 0 if step.predictor is None else inputs * step.groups
        taps, gated = step.weights_oikk.shape[2] ** 2, step.predictor is not None
        layers.append(Layer(name, inputs, outputs, taps, pixels, source, gated=gated, predictor_macs=gate))
        side, inputs, source = shrunk(step, side), outputs, name if gated else None
    return [*layers, Layer("head", inputs, len(plan.head_bias_p), 1, 1, source=source)]
