"""Pruning once and for all: the baselines that dynamic pruning has to beat, removed for good and trained as long.

Shapes: c filters of one convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from nodes.pruning.architectures import Chain, MobileNet, ResNet
from nodes.pruning.cost import dense_macs
from nodes.pruning.gates import GatedConv
from nodes.pruning.images import Images
from nodes.pruning.rewiring import Indices, take
from nodes.pruning.tracing import layers_of

# A layer that is cut to nothing cuts the network in two.
LEAST = 4
BISECTIONS = 12
JUDGED, AT_ONCE = 2000, 200

Worth = Mapping[int, NDArray[np.float64]]
Cuttable = Chain | ResNet | MobileNet


class Method(Enum):
    """How the filters that stay are chosen.

    Attributes:
        UNIFORM: The same share of every layer, those with the largest weights. Source: arXiv 1608.08710.
        MAGNITUDE: The largest weights of the network, each layer's measured by its own mean.
        TAYLOR: Those whose removal changes the loss most, to first order. Source: arXiv 1906.10771, section 3.2.
    """

    UNIFORM = "static-uniform"
    MAGNITUDE = "static-magnitude"
    TAYLOR = "static-taylor"


class Cutter:
    """Cuts a dense network down to a budget, by one method.

    In a chain, every convolution that has a gate may lose filters, the first never. In a residual network, the first
    convolution of each block may: what is added to a shortcut keeps its channels. In a network of separable
    convolutions every 1x1 convolution may, and what filters its channels goes with them. Gates are left as they come.

    Args:
        dense: Trained.
        images: To train with; Taylor's method differentiates the loss of the first 2000.
    """

    def __init__(self, dense: Cuttable, method: Method, images: Images) -> None:
        self._dense, self._method = dense, method
        self._worth = filter_worth(dense, method, images)
        self._picture = torch.zeros(1, *images.images_nchw.shape[1:])
        self._before = dense_macs(layers_of(dense, self._picture))

    def at(self, share: float) -> Cuttable:
        """With this share of the filters."""
        chosen = chosen_filters(self._worth, self._method, share)
        return take(self._dense, chosen)

    def saved(self, network: Cuttable) -> float:
        """Share of the dense network's multiply-accumulates that `network` does without."""
        return 1 - dense_macs(layers_of(network, self._picture)) / self._before

    def share_for(self, fits: Callable[[Cuttable], bool], *, tries: int = BISECTIONS) -> float:
        """The largest share found with which the network `fits`; the smallest there is where none does."""
        low, high = 0.0, 1.0
        if fits(self.at(high)):
            return high
        for _ in range(tries):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(self.at(middle)) else (low, middle)
        return low

    def share_saving(self, wanted: float) -> float:
        """The largest share with which at least `wanted` of the work is saved."""
        return self.share_for(lambda network: self.saved(network) >= wanted)


def losers(dense: Cuttable) -> dict[int, GatedConv]:
    """The convolutions that may lose filters, by their place in a chain, or by their block."""
    if isinstance(dense, ResNet):
        return {i: block.first for i, block in enumerate(dense.blocks)}
    if isinstance(dense, MobileNet):
        return {i: block.pointwise for i, block in enumerate(dense.blocks)}
    return {i: conv for i, conv in enumerate(dense.convs) if conv.gate is not None}


def filter_worth(dense: Cuttable, method: Method, images: Images) -> Worth:
    """What each filter (c) of `losers` is worth."""
    gated = losers(dense)
    if method is Method.TAYLOR:
        return _taylor(dense, {i: conv.norm for i, conv in gated.items()}, images)
    sizes = {i: conv.conv.weight.detach().abs().sum(dim=(1, 2, 3)).double().numpy() for i, conv in gated.items()}
    return sizes if method is Method.UNIFORM else {i: size_c / size_c.mean() for i, size_c in sizes.items()}


def _taylor(dense: Cuttable, norms: Mapping[int, nn.BatchNorm2d], images: Images) -> Worth:
    """Squared change of the loss without the filter's scale and offset, summed over batches of training images."""
    worth = {i: np.zeros(norm.num_features) for i, norm in norms.items()}
    dense.eval()
    for start in range(0, min(JUDGED, len(images.labels_n)), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, JUDGED))
        dense.zero_grad()
        logits = dense(torch.from_numpy(images.images_nchw[rows]))
        functional.cross_entropy(logits, torch.from_numpy(images.labels_n[rows])).backward()
        for i, norm in norms.items():
            change_c = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).detach()
            worth[i] += (change_c.double() ** 2).numpy()
    dense.zero_grad()
    return worth


def chosen_filters(worth: Worth, method: Method, share: float) -> dict[int, Indices]:
    """The filters that stay: a share of each layer (uniform), or of all together, and some of each in any case."""
    if method is Method.UNIFORM:
        return {i: _best(worth_c, round(share * len(worth_c))) for i, worth_c in worth.items()}
    together = np.sort(np.concatenate(list(worth.values())))[::-1]
    limit = together[min(max(round(share * len(together)), 1), len(together)) - 1]
    return {i: _best(worth_c, int((worth_c >= limit).sum())) for i, worth_c in worth.items()}


def _best(worth_c: NDArray[np.float64], wanted: int) -> Indices:
    return np.sort(np.argsort(-worth_c, kind="stable")[: max(wanted, min(LEAST, len(worth_c)))])
