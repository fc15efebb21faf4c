"""The digit classifiers as plain torch modules, cheapest first.

Every module maps images (b, 1, 8, 8) to logits (b, 10). Shapes: b batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from nodes.zoo.digits.settings import CLASSES, SIDE


def linear() -> nn.Sequential:
    """One weight per pixel and class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


def mlp(hidden: int = 48) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def small_conv(first: int, second: int) -> nn.Sequential:
    """Two 3x3 convolutions at the native 8x8 resolution."""
    return nn.Sequential(
        *_conv_relu(1, first),
        nn.MaxPool2d(2),
        *_conv_relu(first, second),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 4, CLASSES),
    )


def lenet5() -> nn.Sequential:
    """LeNet-5 on the digit enlarged to the 32x32 that it was designed for.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998; here with max pooling
    and ReLU.
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False),
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, CLASSES),
    )


def wide(width: int = 32) -> nn.Sequential:
    """Four 3x3 convolutions with batch normalisation on the digit enlarged to 16x16."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        *_conv_norm_relu(1, width),
        *_conv_norm_relu(width, width),
        nn.MaxPool2d(2),
        *_conv_norm_relu(width, 2 * width),
        *_conv_norm_relu(2 * width, 2 * width),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 16, CLASSES),
    )


def _conv_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()


def _conv_norm_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # The normalisation has its own offset; at export it folds into the convolution and costs nothing.
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


BUILDERS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "digits-linear": linear,
        "digits-mlp": mlp,
        "digits-tinyconv": lambda: small_conv(8, 16),
        "digits-conv8": lambda: small_conv(16, 32),
        "digits-lenet5": lenet5,
        "digits-wide": wide,
    }
)


class Classifier(nn.Module):
    """What is exported: images (b, 8, 8) with values 0 to 1 in, probabilities (b, 10) out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(image.unsqueeze(1)), dim=1)
