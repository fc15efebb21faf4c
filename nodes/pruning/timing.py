"""Milliseconds of a mass before it is trained: the masks that it asks for, replayed through the kernels.

Shapes: n images, g groups of all steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kernels.chain.cpu import Chain as Runner
from kernels.chain.plan import ChainPlan
from nodes.pruning.architectures import Served
from nodes.pruning.budget import Forecast
from nodes.pruning.cost import Masks
from nodes.pruning.export import parts_of, plan_of
from nodes.pruning.gates import Masking, set_masking

REPLAYED = 200
TRIES = 9


class Clock:
    """Times a prepared network under the masks of any mass, predictors included.

    Args:
        network: Trained dense; its predictors decide nothing here, but they run.
        images_nchw: Of which the first 200 are replayed.

    Raises:
        KernelMissing: The kernels are not built here.
    """

    def __init__(self, network: Served, images_nchw: NDArray[np.float32]) -> None:
        self._names = list(parts_of(network))
        self._images_nchw = images_nchw[:REPLAYED]
        self._forecast = Forecast(network, [], self._images_nchw)
        set_masking(network, Masking.PREDICTED)
        self._runner = Runner(plan_of(network, side=images_nchw.shape[2]))
        set_masking(network, Masking.OFF)

    def ms(self, mass: float) -> float:
        """Median milliseconds of one image."""
        groups = dict(zip(self._names, self._runner.plan.groups, strict=True))
        masks_ng = flat_masks(self._forecast.masks(mass), groups)
        taken_ms = []
        for image_chw, mask_g in zip(self._images_nchw, masks_ng, strict=True):
            started_s = time.perf_counter()
            self._runner(image_chw[None], masks_ng=mask_g[None])
            taken_ms.append((time.perf_counter() - started_s) * 1e3)
        return float(np.median(taken_ms))

    def mass_for(self, wanted_ms: float) -> float:
        """The largest mass found that stays within `wanted_ms`; the smallest there is where none does."""
        low, high = 0.0, 1.0
        if self.ms(high) <= wanted_ms:
            return high
        for _ in range(TRIES):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ms(middle) <= wanted_ms else (low, middle)
        return low


def plain_ms(network: Served, images_nchw: NDArray[np.float32]) -> float:
    """Median milliseconds of one image through a network whose gates do nothing.

    Raises:
        KernelMissing: The kernels are not built here.
    """
    set_masking(network, Masking.OFF)
    return served_ms(plan_of(network, side=images_nchw.shape[2]), images_nchw)


def served_ms(plan: ChainPlan, images_nchw: NDArray[np.float32]) -> float:
    """Median milliseconds of one image, predictors and all, of the first 200."""
    runner, taken_ms = Runner(plan), []
    for image_chw in images_nchw[:REPLAYED]:
        started_s = time.perf_counter()
        runner(image_chw[None])
        taken_ms.append((time.perf_counter() - started_s) * 1e3)
    return float(np.median(taken_ms))


def flat_masks(masks: Masks, groups: Mapping[str, int]) -> NDArray[np.uint8]:
    """Masks (n, g) as the kernels take them: all steps side by side, ungated ones full."""
    samples = len(next(iter(masks.values())))
    parts = [masks.get(name, np.ones((samples, width), bool)) for name, width in groups.items()]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.uint8)
