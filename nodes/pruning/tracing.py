"""What a network is made of, as `cost` counts it, and how its filters fire. Shapes: n samples, c channels, g groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodes.pruning.cost import Layer, Masks
from nodes.pruning.gates import Gate, GatedConv, Masking, device_of, gates_of, set_masking
from nodes.pruning.mass import group_scores, keep_by_mass

AT_ONCE = 500


def layers_of(network: nn.Module, example_bchw: torch.Tensor) -> list[Layer]:
    """Every convolution and linear map of `network`, in order, predictors charged to their layer."""
    pixels: dict[str, int] = {}
    parts = {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    parts = {name: part for name, part in parts.items() if ".predictor." not in name}
    handles = [part.register_forward_hook(_notes(name, pixels)) for name, part in parts.items()]
    try:
        with torch.no_grad():
            network.eval()(example_bchw.to(device_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    gates, sources = gates_of(network), network.sources()
    return [_layer(name, part, pixels[name], gates=gates, sources=sources) for name, part in parts.items()]


def _notes(name: str, pixels: dict[str, int]) -> Callable[..., None]:
    def note(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        pixels[name] = int(output[0, 0].numel())

    return note


def _layer(name: str, part: nn.Module, pixels: int, *, gates: dict[str, Gate], sources: dict[str, str | None]) -> Layer:
    name = name.removesuffix(".conv")
    source = sources.get(name)
    if isinstance(part, nn.Linear):
        return Layer(name, part.in_features, part.out_features, taps=1, pixels=1, source=source)
    gate = gates.get(name)
    predictor = 0 if gate is None else sum(linear.weight.numel() for linear in gate.predictor.children())
    return Layer(
        name,
        part.in_channels,
        part.out_channels,
        taps=part.kernel_size[0] * part.kernel_size[1],
        pixels=pixels,
        source=source,
        gated=gate is not None,
        predictor_macs=predictor,
        depthwise=part.groups > 1,
        group=1 if gate is None else gate.group,
    )


def passes(network: nn.Module, images_nchw: NDArray[np.float32]) -> Iterator[torch.Tensor]:
    """Logits, some images at a time; the gates hold what they saw."""
    network.eval()
    with torch.no_grad():
        for start in range(0, len(images_nchw), AT_ONCE):
            yield network(torch.from_numpy(images_nchw[start : start + AT_ONCE]).to(device_of(network)))


def firing(network: nn.Module, images_nchw: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Filter scores (n, c) of every gate, nothing masked."""
    gates = gates_of(network)
    before = {name: gate.masking for name, gate in gates.items()}
    set_masking(network, Masking.OFF)
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in gates}
    for _ in passes(network, images_nchw):
        for name, gate in gates.items():
            assert gate.score_bc is not None
            seen[name].append(gate.score_bc.cpu().numpy())
    for name, gate in gates.items():
        gate.masking = before[name]
    return {name: np.concatenate(scores) for name, scores in seen.items()}


def predicted_masks(network: nn.Module, images_nchw: NDArray[np.float32]) -> Masks:
    """Masks (n, g) that the predictors decide on, and that the network then runs with."""
    set_masking(network, Masking.PREDICTED)
    gates = gates_of(network)
    seen: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in gates}
    for _ in passes(network, images_nchw):
        for name, gate in gates.items():
            assert gate.mask_bg is not None
            seen[name].append(gate.mask_bg.cpu().numpy() > 0)
    return {name: np.concatenate(masks) for name, masks in seen.items()}


def target_masks(scores: dict[str, NDArray[np.float32]], mass: float, group: dict[str, int]) -> Masks:
    """Masks (n, g) that the mass criterion asks for."""
    return {name: keep_by_mass(group_scores(score_nc, group[name]), mass) for name, score_nc in scores.items()}


def conv_parts(network: nn.Module) -> dict[str, GatedConv]:
    """All gated or gateable convolutions by name, in order."""
    return {name: part for name, part in network.named_modules() if isinstance(part, GatedConv)}
