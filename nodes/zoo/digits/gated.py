"""Digit experts that prune themselves: one network, trained dense and then for several masses.

Each operating point is an expert of its own name, since what a gateway learns about an expert holds for all its arms.
Shapes: n rows, c classes, g groups of all steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.chain.cpu import Chain as Runner
from kernels.chain.plan import ChainPlan
from nodes.pruning.architectures import Chain
from nodes.pruning.budget import Forecast, hold
from nodes.pruning.cost import dense_macs, sample_macs
from nodes.pruning.export import plan_of
from nodes.pruning.images import Images
from nodes.pruning.rows import Data, example, prepare
from nodes.pruning.state import put_weights, weights_of
from nodes.pruning.tracing import layers_of
from nodes.pruning.training import Course, Schedule, train
from nodes.zoo.digits.settings import CLASSES, MASSES
from nodes.zoo.digits.splits import Digits, load_digits_with_folds

NETWORK: tuple[int | str, ...] = (16, "M", 64, "M", 64)
DENSE = Schedule(epochs=30, rate=0.05, batch=32, margin=1, flip=False, decay=1e-3)
PRUNED = Schedule(epochs=20, rate=0.02, batch=32, margin=1, flip=False, decay=1e-3)


@dataclass(frozen=True, eq=False)
class FittedChain:
    """A trained operating point.

    Attributes:
        plan: What ships.
        probabilities_nc: Its answers to all rows, as the kernels give them.
        macs_n: What each row takes, predictors included.
        parameters: Trained numbers.
    """

    plan: ChainPlan
    probabilities_nc: NDArray[np.float32]
    macs_n: NDArray[np.int64]
    parameters: int


def run_gated_job(left_out: tuple[int, ...]) -> tuple[dict[str, FittedChain], float]:
    """Train every operating point on the rows outside these folds. Cost: one core for about half a minute."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started_s = time.perf_counter()
    digits = load_digits_with_folds()
    seen_n = ~np.isin(digits.fold_n, left_out)
    data = Data(_images(digits, seen_n), _images(digits, ~seen_n))
    torch.manual_seed(DENSE.seed)
    network = Chain(NETWORK, inputs=1, classes=CLASSES)
    train(network, data.train, Course(DENSE), report=_silent)
    # One order of filters for all masses, found once.
    prepared = prepare(network, data)
    fitted = {name: _point(prepared, mass, data, digits=digits) for name, mass in MASSES.items()}
    return fitted, time.perf_counter() - started_s


def _point(prepared: Chain, mass: float | None, data: Data, *, digits: Digits) -> FittedChain:
    network = Chain(_plan(prepared), inputs=1, classes=CLASSES)
    torch.manual_seed(PRUNED.seed)
    put_weights(network, weights_of(prepared))
    layers = layers_of(network, example(data))
    plan = plan_of(prepared, side=data.train.images_nchw.shape[2])
    if mass is not None:
        keep = Forecast(network, layers, data.surveyed).keep(mass)
        train(network, data.train, Course(PRUNED, mass=mass), report=_silent)
        hold(network, keep, data.surveyed)
        plan = plan_of(network, side=data.train.images_nchw.shape[2])
    probabilities_nc, used_ng = Runner(plan)(digits.images_nhw[:, None])
    macs_n = np.full(len(used_ng), dense_macs(layers))
    if mass is not None:
        parts = np.split(used_ng > 0, np.cumsum(plan.groups)[:-1], axis=1)
        masks = {layer.name: parts[index] for index, layer in enumerate(layers[:-1]) if layer.gated}
        macs_n = sample_macs(layers, masks, len(used_ng))
    parameters = sum(int(np.prod(step.weights_oikk.shape)) + len(step.bias_o) for step in plan.steps)
    parameters += sum(
        layer.predictor_macs + layer.outputs // 16 for layer in layers if layer.gated and mass is not None
    )
    return FittedChain(plan, probabilities_nc, macs_n, parameters + plan.head_pc.size + len(plan.head_bias_p))


def _plan(network: Chain) -> tuple[int | str, ...]:
    widths = [conv.conv.out_channels for conv in network.convs]
    return tuple(
        entry
        for width, halve in zip(widths, network.halves, strict=True)
        for entry in ((width, "M") if halve else (width,))
    )


def _images(digits: Digits, rows_n: NDArray[np.bool_]) -> Images:
    return Images(np.ascontiguousarray(digits.images_nhw[rows_n][:, None]), digits.labels_n[rows_n])


def _silent(_: str) -> None:
    return None
