"""How each digit expert is trained, as data.

The settings are the same for every model of an expert, so that its out-of-fold answers speak for the expert
that ships. They are round numbers, tried by hand against the accuracy over five folds and not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

CLASSES = 10
SIDE = 8
FOLDS = 5
HELD_OUT_FOLD = 0


@dataclass(frozen=True)
class Recipe:
    """Settings of one expert's training.

    Attributes:
        epochs: Passes over the training rows.
        learning_rate: Peak of the one-cycle schedule.
        distortion_fraction: Strength of the random rotation, scaling and shift; 0 trains on the plain images.
        batch_rows: Rows per step.
        weight_decay: Decoupled decay of AdamW.
        seed: Seed of the weights, the order of rows and the distortions.
    """

    epochs: int
    learning_rate: float
    distortion_fraction: float
    batch_rows: int = 64
    weight_decay: float = 1e-2
    seed: int = 0


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits-linear": Recipe(epochs=60, learning_rate=3e-2, distortion_fraction=0.0),
        "digits-mlp": Recipe(epochs=60, learning_rate=1e-2, distortion_fraction=0.5),
        "digits-tinyconv": Recipe(epochs=60, learning_rate=8e-3, distortion_fraction=0.5),
        "digits-conv8": Recipe(epochs=40, learning_rate=5e-3, distortion_fraction=0.7),
        "digits-lenet5": Recipe(epochs=30, learning_rate=3e-3, distortion_fraction=1.0),
        "digits-wide": Recipe(epochs=14, learning_rate=3e-3, distortion_fraction=1.0),
    }
)

# Self-pruning experts: the share of the activations that each keeps. None is their network before pruning, in the same
# kernels.
MASSES: Mapping[str, float | None] = MappingProxyType(
    {"digits-gated-m60": 0.6, "digits-gated-m80": 0.8, "digits-gated": None}
)
