"""A chain as formulas on whole arrays. Shape letters: c channels, h and w pixels, g groups, p classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.chain.plan import ChainPlan, Predictor
from kernels.depthwise.reference import depthwise
from kernels.masked_conv.layout import GROUP, Floats
from kernels.masked_conv.reference import masked_conv

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


def classify(
    plan: ChainPlan, image_chw: Floats, *, masks: Sequence[Bools] | None = None
) -> tuple[Doubles, list[Bools]]:
    """Probabilities (p) and the mask (g) of each step; with `masks`, those instead of the predictors'."""
    active: NDArray[np.int32] = np.arange(plan.inputs, dtype=np.int32)
    image: Doubles = image_chw.astype(np.float64)
    used: list[Bools] = []
    kept = image
    for index, step in enumerate(plan.steps):
        if step.depthwise is not None:
            layer = step.depthwise
            image = depthwise(image, layer.weights_ikk, layer.bias_i, stride=layer.stride)
        peak_c: Doubles = image.max(axis=(1, 2))
        mask_g = np.ones(step.groups, dtype=bool) if step.predictor is None else predict(step.predictor, peak_c)
        mask_g = mask_g if masks is None else masks[index]
        groups = np.flatnonzero(mask_g).astype(np.int32)
        kept = image if step.keep else kept
        image = masked_conv(
            image,
            step.weights_oikk,
            step.bias_o,
            active_in=active,
            active_groups=groups,
            stride=step.stride,
        )
        image = halved(image) if step.halve else image
        active = (groups[:, None] * GROUP + np.arange(GROUP)).ravel().astype(np.int32)
        if step.add:
            image[: len(kept)] += kept[:, :: step.add, :: step.add]
            active = np.arange(len(image), dtype=np.int32)
        used.append(mask_g)
    return softmax(plan.head_pc @ image.mean(axis=(1, 2)) + plan.head_bias_p), used


def predict(predictor: Predictor, peak_c: Doubles) -> Bools:
    """Groups with a logit above zero, and in any case the largest."""
    share_c = softmax(peak_c) * len(peak_c)
    logits_g = predictor.up_gr @ (share_c if predictor.down_ri is None else predictor.down_ri @ share_c)
    logits_g = logits_g + predictor.offset_g
    mask_g = logits_g > 0
    mask_g[logits_g.argmax()] = True
    return mask_g


def softmax(values: Doubles) -> Doubles:
    """Positive shares that add up to 1."""
    raised = np.exp(values - values.max())
    shares: Doubles = raised / raised.sum()
    return shares


def halved(image_chw: Doubles) -> Doubles:
    """Maxima of 2x2 pixels."""
    channels, height, width = image_chw.shape
    largest: Doubles = image_chw.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
    return largest
