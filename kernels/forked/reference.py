"""A forked classifier as formulas on whole arrays. Shape letters: c channels, h and w pixels, p classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.forked.plan import ForkPlan, Gate, Layer
from kernels.masked_conv.layout import Floats

Doubles = NDArray[np.float64]


def classify(plan: ForkPlan, image_chw: Floats) -> tuple[Doubles, bool]:
    """Probabilities (p), and whether the second set of layers gave them."""
    stem = apply(plan.layers[0], enlarged(image_chw.astype(np.float64), plan.upsample), last=False)
    local = plan.gate is not None and score(plan.gate, stem) > 0.0
    value, rest = stem, plan.others if local else plan.layers[1:]
    for layer in rest:
        value = apply(layer, value, last=layer is rest[-1])
    raised = np.exp(value.ravel() - value.max())
    return raised / raised.sum(), local


def score(gate: Gate, stem_chw: Doubles) -> float:
    """Above zero the second set of layers answers."""
    cell = stem_chw.shape[1] // gate.cells
    inside = stem_chw[:, : cell * gate.cells, : cell * gate.cells]
    means = inside.reshape(len(stem_chw), gate.cells, cell, gate.cells, cell).mean(axis=(2, 4))
    seen_s = np.concatenate([means.ravel(), np.sqrt((stem_chw**2).sum(axis=(1, 2)))])
    return float(np.maximum(seen_s @ gate.first_sh + gate.bias_h, 0.0) @ gate.second_h + gate.threshold)


def enlarged(image_chw: Doubles, factor: int) -> Doubles:
    """Bilinear, sample points in the middle of pixels."""
    low, share = positions(image_chw.shape[1], factor)
    high = np.minimum(low + 1, image_chw.shape[1] - 1)
    lines = image_chw[:, low] * (1 - share)[:, None] + image_chw[:, high] * share[:, None]
    made: Doubles = lines[:, :, low] * (1 - share) + lines[:, :, high] * share
    return made


def positions(side: int, factor: int) -> tuple[NDArray[np.int32], Doubles]:
    """For each coordinate of the large picture: the pixel before it, and how far it is on the way to the next."""
    at = np.clip((np.arange(side * factor) + 0.5) / factor - 0.5, 0.0, side - 1.0)
    low = np.floor(at).astype(np.int32)
    return low, at - low


def apply(layer: Layer, value_chw: Doubles, *, last: bool) -> Doubles:
    """One layer with what is behind it."""
    if not layer.conv:
        made = (layer.weights @ value_chw.ravel() + layer.bias_o)[:, None, None]
        return made if last else np.maximum(made, 0.0)
    pad = layer.padding
    padded = np.pad(value_chw, ((0, 0), (pad, pad), (pad, pad)))
    kernel = layer.weights.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]
    made = np.einsum("ihwkl,oikl->ohw", windows, layer.weights) + layer.bias_o[:, None, None]
    made = pooled(np.maximum(made, 0.0), layer.pool)
    return made.mean(axis=(1, 2), keepdims=True) if layer.averaged else made


def pooled(value_chw: Doubles, window: int) -> Doubles:
    """Maxima of windows that do not overlap; what is left over at the end is dropped."""
    channels, side = len(value_chw), value_chw.shape[1] // window
    whole = value_chw[:, : side * window, : side * window]
    return np.asarray(whole.reshape(channels, side, window, side, window).max(axis=(2, 4)))
