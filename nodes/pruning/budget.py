"""How much a mass saves, before any training, and thresholds that hold what was promised, after it.

Shapes: n samples, g groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nodes.pruning.cost import Layer, Masks, reduction
from nodes.pruning.gates import Masking, gates_of, set_masking
from nodes.pruning.mass import threshold_for
from nodes.pruning.tracing import firing, passes, target_masks

HALVINGS = 24


class Forecast:
    """What pruning the frozen network at any mass would save.

    Args:
        network: Trained dense.
        layers: Its layers.
        images_nchw: A few hundred training images.

    Source: arXiv 2110.08232, section 3.4: the reduction is known before the gates are trained.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], images_nchw: NDArray[np.float32]) -> None:
        self._layers = layers
        self._scores = firing(network, images_nchw)
        self._group = {name: gate.group for name, gate in gates_of(network).items()}

    def reduction(self, mass: float) -> float:
        """Share of multiply-accumulates that will be saved."""
        return reduction(self._layers, self.masks(mass))

    def masks(self, mass: float) -> Masks:
        """The masks that the images will have."""
        return target_masks(self._scores, mass, self._group)

    def keep(self, mass: float) -> dict[str, float]:
        """Share of groups that each gate will keep."""
        return {name: float(mask_ng.mean()) for name, mask_ng in self.masks(mass).items()}

    def mass_for(self, wanted: float) -> float:
        """The largest mass that saves at least `wanted`; the smallest there is where none does."""
        low, high = 0.0, 1.0
        if self.reduction(high) >= wanted:
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.reduction(middle) >= wanted else (low, middle)
        return low


def hold(network: nn.Module, keep: Mapping[str, float], images_nchw: NDArray[np.float32]) -> None:
    """Set every gate's threshold so that it keeps its share of groups, on the average, on these images.

    From the first gate on, since each changes what the next ones see. Cost: one pass over the images per gate.
    """
    set_masking(network, Masking.PREDICTED)
    for name, gate in gates_of(network).items():
        margins = []
        gate.threshold_g.zero_()
        for _ in passes(network, images_nchw):
            assert gate.logits_bg is not None
            margins.append(gate.logits_bg.cpu().numpy())
        gate.threshold_g.fill_(threshold_for(np.concatenate(margins), keep[name]))


def thresholds(network: nn.Module) -> dict[str, float]:
    """The threshold of every gate, as `hold` left it."""
    return {name: float(gate.threshold_g[0]) for name, gate in gates_of(network).items()}


def put_thresholds(network: nn.Module, values: Mapping[str, float]) -> None:
    """Set what `thresholds` gave."""
    for name, gate in gates_of(network).items():
        gate.threshold_g.fill_(values[name])
