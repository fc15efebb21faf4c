"""Changes to a trained network that leave its answers alone, and the removal of chosen filters.

Shapes: n samples, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodes.pruning.architectures import Chain, MobileNet, ResNet
from nodes.pruning.gates import GatedConv
from nodes.pruning.mass import GROUP, firing_order

Indices = NDArray[np.int64]
Rewired = TypeVar("Rewired", Chain, ResNet, MobileNet)


def take_filters(network: Chain, chosen: Mapping[int, Indices]) -> Chain:
    """A chain with these filters of these convolutions, in this order; the others stay as they are.

    Predictors are not carried over.
    """
    widths = [len(chosen[i]) if i in chosen else conv.conv.out_channels for i, conv in enumerate(network.convs)]
    plan: list[int | str] = []
    for width, halve in zip(widths, network.halves, strict=True):
        plan += [width, "M"] if halve else [width]
    inputs = network.convs[0].conv.in_channels
    classes = network.head.out_features
    fresh = Chain(tuple(plan), inputs=inputs, classes=classes, rank=network.rank, group=network.group)
    before: Indices = np.arange(inputs)
    with torch.no_grad():
        for i, (old, new) in enumerate(zip(network.convs, fresh.convs, strict=True)):
            here = chosen.get(i, np.arange(old.conv.out_channels))
            _copy(old, new, here, before)
            before = here
        fresh.head.weight.copy_(network.head.weight[:, before])
        fresh.head.bias.copy_(network.head.bias)
    return fresh


def take_inner(network: ResNet, chosen: Mapping[int, Indices]) -> ResNet:
    """A residual network with these filters of the first convolution of these blocks; all that is added stays.

    Predictors are not carried over.
    """
    stay = [chosen.get(i, np.arange(channels)) for i, channels in enumerate(network.inner)]
    fresh = ResNet(
        network.depth,
        width=network.width,
        classes=network.head.out_features,
        rank=network.rank,
        group=network.group,
        inner=[len(here) for here in stay],
    )
    fresh.stem.load_state_dict(network.stem.state_dict())
    fresh.head.load_state_dict(network.head.state_dict())
    with torch.no_grad():
        for old, new, here in zip(network.blocks, fresh.blocks, stay, strict=True):
            _copy(old.first, new.first, here, np.arange(old.first.conv.in_channels))
            _copy(old.second, new.second, np.arange(old.second.conv.out_channels), here)
    return fresh


def take_blocks(network: MobileNet, chosen: Mapping[int, Indices]) -> MobileNet:
    """A network of separable convolutions with these filters of these blocks, in this order; the stem stays.

    Predictors are not carried over.
    """
    stay = [chosen.get(i, np.arange(channels)) for i, channels in enumerate(network.channels)]
    fresh = MobileNet(
        width=network.width,
        classes=network.head.out_features,
        rank=network.rank,
        group=network.group,
        channels=[len(here) for here in stay],
    )
    fresh.stem.load_state_dict(network.stem.state_dict())
    before: Indices = np.arange(network.stem.conv.out_channels)
    with torch.no_grad():
        for old, new, here in zip(network.blocks, fresh.blocks, stay, strict=True):
            new.depthwise.weight.copy_(old.depthwise.weight[before])
            _copy_norm(old.norm, new.norm, before)
            _copy(old.pointwise, new.pointwise, here, before)
            before = here
        fresh.head.weight.copy_(network.head.weight[:, before])
        fresh.head.bias.copy_(network.head.bias)
    return fresh


def _copy(old: GatedConv, new: GatedConv, outputs: Indices, inputs: Indices) -> None:
    new.conv.weight.copy_(old.conv.weight[outputs][:, inputs])
    _copy_norm(old.norm, new.norm, outputs)


def _copy_norm(old: nn.BatchNorm2d, new: nn.BatchNorm2d, channels: Indices) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new, name).copy_(getattr(old, name)[channels])


def gather_firing(network: Rewired, scores: Mapping[str, NDArray[np.float32]]) -> Rewired:
    """Reorder filters so that those which fire together share a group. The answers do not change."""
    return _take(network, {name: firing_order(score_nc) for name, score_nc in scores.items()})


def drop_silent(network: Rewired, scores: Mapping[str, NDArray[np.float32]], *, floor: float = 1e-6) -> Rewired:
    """Remove filters that never fired, in whole groups of 16, so that no mask has to name them."""
    return _take(network, {name: loud_filters(score_nc, floor) for name, score_nc in scores.items()})


def _take(network: Rewired, chosen: Mapping[str, Indices]) -> Rewired:
    """What is added to a shortcut keeps its channels, so that the second convolutions of blocks are passed over."""
    stay = {index_of(name): rows for name, rows in chosen.items() if not name.endswith(".second")}
    return take(network, stay)


def take(network: Rewired, chosen: Mapping[int, Indices]) -> Rewired:
    """A network with these filters of what may lose some: its convolutions, or one in each of its blocks."""
    if isinstance(network, Chain):
        return take_filters(network, chosen)
    return take_inner(network, chosen) if isinstance(network, ResNet) else take_blocks(network, chosen)


def loud_filters(score_nc: NDArray[np.float32], floor: float) -> Indices:
    """Filters that fire for some sample, filled up with silent ones to a whole number of groups."""
    peak_c = score_nc.max(axis=0)
    loud = max(int((peak_c > floor).sum()), 1)
    wanted = min(-(-loud // GROUP) * GROUP, len(peak_c))
    return np.sort(np.argsort(-peak_c, kind="stable")[:wanted])


def index_of(name: str) -> int:
    """Which convolution of a chain ``convs.3`` is, or which block ``blocks.3.pointwise``."""
    return int(name.split(".")[1])
