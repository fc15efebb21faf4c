"""What one inference costs: multiply-accumulates, parameters and resident bytes of a torch module.

A convolution costs output elements x kernel taps per output, a linear layer inputs x outputs, a bilinear
enlargement four taps per output pixel. Batch normalisation folds into the convolution before it; activations,
pooling and softmax multiply nothing that is worth counting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

FLOAT_BYTES = 4
BILINEAR_TAPS = 4


@dataclass(frozen=True)
class Cost:
    """Cost of one inference at batch 1.

    Attributes:
        macs: Multiply-accumulates.
        parameters: Trained numbers, running statistics of normalisation not counted.
        activation_bytes: Outputs of all layers together, as if none was reused.
    """

    macs: int
    parameters: int
    activation_bytes: int


def count_cost(network: nn.Module, example: torch.Tensor) -> Cost:
    """Run `network` once on `example` (batch 1) and count."""
    macs: list[int] = []
    elements: list[int] = []

    def observe(layer: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        macs.append(_layer_macs(layer, output))
        elements.append(output.numel())

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(observe) for layer in leaves]
    try:
        _run(network, example)
    finally:
        for handle in handles:
            handle.remove()
    parameters = sum(weights.numel() for weights in network.parameters())
    return Cost(sum(macs), parameters, FLOAT_BYTES * sum(elements))


def _run(network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> None:
    with torch.no_grad():
        network(example)


def _layer_macs(layer: nn.Module, output: torch.Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return int(output.numel() * layer.weight[0].numel())
    if isinstance(layer, nn.Linear):
        return int(layer.in_features * layer.out_features)
    if isinstance(layer, nn.Upsample):
        return int(output.numel() * BILINEAR_TAPS)
    return 0
