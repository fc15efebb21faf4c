"""Changes to a trained chain that leave its answers alone, or that prune it once and for all.

Shapes: n samples, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.pruning.architectures import Chain
from nodes.pruning.mass import GROUP, firing_order

Indices = NDArray[np.int64]


def take_filters(network: Chain, chosen: Mapping[int, Indices]) -> Chain:
    """A chain with these filters of these convolutions, in this order; the others stay as they are.

    Predictors are not carried over.
    """
    widths = [len(chosen[i]) if i in chosen else conv.conv.out_channels for i, conv in enumerate(network.convs)]
    plan: list[int | str] = []
    for width, halve in zip(widths, network.halves, strict=True):
        plan += [width, "M"] if halve else [width]
    inputs = network.convs[0].conv.in_channels
    fresh = Chain(tuple(plan), inputs=inputs, classes=network.head.out_features)
    before: Indices = np.arange(inputs)
    with torch.no_grad():
        for i, (old, new) in enumerate(zip(network.convs, fresh.convs, strict=True)):
            here = chosen.get(i, np.arange(old.conv.out_channels))
            new.conv.weight.copy_(old.conv.weight[here][:, before])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(new.norm, name).copy_(getattr(old.norm, name)[here])
            before = here
        fresh.head.weight.copy_(network.head.weight[:, before])
        fresh.head.bias.copy_(network.head.bias)
    return fresh


def gather_firing(network: Chain, scores: Mapping[str, NDArray[np.float32]]) -> Chain:
    """Reorder filters so that those which fire together share a group. The answers do not change."""
    return take_filters(network, {index_of(name): firing_order(score_nc) for name, score_nc in scores.items()})


def drop_silent(network: Chain, scores: Mapping[str, NDArray[np.float32]], *, floor: float = 1e-6) -> Chain:
    """Remove filters that never fired, in whole groups of 16, so that no mask has to name them."""
    return take_filters(network, {index_of(name): loud_filters(score_nc, floor) for name, score_nc in scores.items()})


def loud_filters(score_nc: NDArray[np.float32], floor: float) -> Indices:
    """Filters that fire for some sample, filled up with silent ones to a whole number of groups."""
    peak_c = score_nc.max(axis=0)
    loud = max(int((peak_c > floor).sum()), 1)
    wanted = min(-(-loud // GROUP) * GROUP, len(peak_c))
    return np.sort(np.argsort(-peak_c, kind="stable")[:wanted])


def keep_largest(network: Chain, fraction: float, layers: Sequence[int]) -> Chain:
    """Static pruning: of each of these convolutions the filters with the largest weights, the same share of all.

    Source: Li et al., arXiv 1608.08710 (sum of absolute weights).
    """
    chosen = {}
    for i in layers:
        size_c = network.convs[i].conv.weight.detach().abs().sum(dim=(1, 2, 3)).numpy()
        wanted = max(round(fraction * len(size_c)), 1)
        chosen[i] = np.sort(np.argsort(-size_c, kind="stable")[:wanted])
    return take_filters(network, chosen)


def index_of(name: str) -> int:
    """Which convolution of a chain ``convs.3`` is."""
    return int(name.rpartition(".")[2])
