"""One operating point each: a network pruned to a mass or a budget, trained, held to it and judged.

Shapes: n samples, g groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nodes.pruning.architectures import Chain
from nodes.pruning.budget import Forecast, hold
from nodes.pruning.checkpoints import Checkpoint, net_of_chain
from nodes.pruning.cost import Layer, dense_macs, reduction
from nodes.pruning.gates import Masking, set_masking
from nodes.pruning.images import Images
from nodes.pruning.rewiring import drop_silent, gather_firing, keep_largest
from nodes.pruning.tracing import firing, layers_of, predicted_masks
from nodes.pruning.training import Course, Report, accuracy, settle, train

# Enough to know a share to a percent or so.
SURVEYED = 2000
BISECTIONS = 12


@dataclass(frozen=True)
class Data:
    """Images to train with and images to judge by."""

    train: Images
    test: Images

    @property
    def surveyed(self) -> np.ndarray:
        """Training images that thresholds and forecasts are made from."""
        return self.train.images_nchw[:SURVEYED]


def example(data: Data) -> torch.Tensor:
    """One image of nothing."""
    return torch.zeros(1, *data.train.images_nchw.shape[1:])


def prepare(dense: Chain, data: Data) -> Chain:
    """Drop filters that never fire, then put those together which fire together."""
    slim = drop_silent(dense, firing(dense, data.surveyed))
    slim.eval()
    gathered = gather_firing(slim, firing(slim, data.surveyed))
    gathered.eval()
    return gathered


def prune(network: nn.Module, data: Data, course: Course, *, report: Report = print) -> dict[str, Any]:
    """Train a network's gates for the mass of `course`, hold the forecast, and say how it went."""
    mass = 1.0 if course.mass is None else course.mass
    layers = layers_of(network, example(data))
    forecast = Forecast(network, layers, data.surveyed)
    expected = forecast.reduction(mass)
    report(f"mass {mass:.3f}: {expected:.1%} fewer multiply-accumulates expected")
    keep = forecast.keep(mass)
    train(network, data.train, course, report=report, when_frozen=lambda: hold(network, keep, data.surveyed))
    raw = judged(network, layers, data)
    hold(network, keep, data.surveyed)
    settle(network, data.surveyed)
    hold(network, keep, data.surveyed)
    held = judged(network, layers, data)
    facts = {
        "mass": mass,
        "joint": course.joint,
        "schedule": asdict(course.schedule),
        "dense_macs": dense_macs(layers),
        "reduction_forecast": expected,
        "reduction_before_last_hold": raw["reduction"],
        "accuracy_before_last_hold": raw["accuracy"],
        **held,
    }
    report(f"accuracy {held['accuracy']:.2%} at {held['reduction']:.1%} (before the last hold {raw['accuracy']:.2%})")
    return facts


def judged(network: nn.Module, layers: Sequence[Layer], data: Data) -> dict[str, Any]:
    """Accuracy and honest savings on the test images."""
    set_masking(network, Masking.PREDICTED)
    masks = predicted_masks(network, data.test.images_nchw)
    return {"accuracy": accuracy(network, data.test), "reduction": reduction(layers, masks)}


def prune_statically(dense: Chain, data: Data, course: Course, *, wanted: float, report: Report = print) -> Checkpoint:
    """The same saving by leaving out the filters with the smallest weights, for every input alike."""
    before = dense_macs(layers_of(dense, example(data)))
    gated = [i for i, conv in enumerate(dense.convs) if conv.gate is not None]
    low, high = 0.05, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        small = keep_largest(dense, middle, gated)
        saved = 1 - dense_macs(layers_of(small, example(data))) / before
        low, high = (middle, high) if saved >= wanted else (low, middle)
    network = keep_largest(dense, low, gated)
    train(network, data.train, course, report=report)
    facts = {
        "static": "largest weights",
        "schedule": asdict(course.schedule),
        "dense_macs": before,
        "reduction": 1 - dense_macs(layers_of(network, example(data))) / before,
        "accuracy": accuracy(network, data.test),
    }
    report(f"static: accuracy {facts['accuracy']:.2%} at {facts['reduction']:.1%}")
    return Checkpoint(net_of_chain(network, side=data.train.images_nchw.shape[2]), network, facts)
