"""One operating point each: a network pruned to a mass or a budget, trained, held to it and judged.

Shapes: n samples, g groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nodes.pruning.budget import Forecast, hold, put_thresholds, thresholds
from nodes.pruning.cost import Layer, dense_macs, reduction
from nodes.pruning.gates import Masking, set_masking
from nodes.pruning.images import Images
from nodes.pruning.rewiring import drop_silent, gather_firing
from nodes.pruning.static import Cuttable
from nodes.pruning.tracing import firing, layers_of, predicted_masks
from nodes.pruning.training import Course, Report, accuracy, settle, train

# Enough to know a share to a percent or so.
SURVEYED = 2000


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


def prepare(dense: nn.Module, data: Data) -> nn.Module:
    """Drop filters that never fire, then put those together which fire together.

    In a chain and in a network of separable convolutions those of every gated layer; in a residual network those within
    its blocks, since every sum keeps its channels. Other networks come back as they are.
    """
    if not isinstance(dense, Cuttable):
        return dense
    slim = drop_silent(dense, firing(dense, data.surveyed)).eval()
    return gather_firing(slim, firing(slim, data.surveyed)).eval()


def prune(
    network: nn.Module, data: Data, course: Course, *, masses: Sequence[float] = (), report: Report = print
) -> dict[str, Any]:
    """Train a network's gates for the mass of `course`, hold the forecast, and say how it went.

    Args:
        masses: Others that the trained network shall have thresholds for.
    """
    mass = 1.0 if course.mass is None else course.mass
    layers = layers_of(network, example(data))
    forecast = Forecast(network, layers, data.surveyed)
    expected = forecast.reduction(mass)
    report(f"mass {mass:.3f}: {expected:.1%} fewer multiply-accumulates expected")
    keep, keeps = forecast.keep(mass), {other: forecast.keep(other) for other in masses}
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
        "points": points(network, layers, data, keeps),
    }
    report(f"accuracy {held['accuracy']:.2%} at {held['reduction']:.1%} (before the last hold {raw['accuracy']:.2%})")
    return facts


def judged(network: nn.Module, layers: Sequence[Layer], data: Data) -> dict[str, Any]:
    """Accuracy and honest savings on the test images."""
    set_masking(network, Masking.PREDICTED)
    masks = predicted_masks(network, data.test.images_nchw)
    return {"accuracy": accuracy(network, data.test), "reduction": reduction(layers, masks)}


def points(
    network: nn.Module, layers: Sequence[Layer], data: Data, keeps: Mapping[float, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """The trained network at other masses: thresholds that hold their forecasts, and what they cost in accuracy.

    Weights and predictors are those of the mass that was trained, and so are the thresholds afterwards.
    """
    trained = thresholds(network)
    found = []
    for mass, keep in keeps.items():
        hold(network, keep, data.surveyed)
        found.append({"mass": mass, "thresholds": thresholds(network), **judged(network, layers, data)})
    put_thresholds(network, trained)
    return found


def prune_statically(
    network: nn.Module, data: Data, course: Course, *, before_macs: int, report: Report = print
) -> dict[str, Any]:
    """Train a chain that lost its filters already, as long as any other, and say how it went."""
    train(network, data.train, course, report=report)
    facts = {
        "share": course.setting,
        "schedule": asdict(course.schedule),
        "dense_macs": before_macs,
        "reduction": 1 - dense_macs(layers_of(network, example(data))) / before_macs,
        "accuracy": accuracy(network, data.test),
    }
    report(f"accuracy {facts['accuracy']:.2%} at {facts['reduction']:.1%}")
    return facts
