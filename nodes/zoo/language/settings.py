"""How each text expert is built and trained, as data. Round numbers, tried by hand and not searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodes.zoo.skills.suites import NAMES

CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Recipe:
    """Settings of one expert.

    Attributes:
        suites: What it learns; questions of others are as foreign to it as any text.
        width, layers, heads, kv_heads, hidden: See `network.Shape`.
        steps: Batches in all.
        batch_questions: Questions per step.
        learning_rate: Peak; a short warm-up, then half a cosine to zero.
        seed: Of the weights and the questions.
        plain_until: Step up to which questions begin in few ways only.
    """

    suites: tuple[str, ...]
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    steps: int
    learning_rate: float
    batch_questions: int = 96
    weight_decay: float = 0.01
    plain_until: int = 0
    seed: int = 0


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "skills-dates": Recipe(("dates", "units"), 96, 4, 3, 1, 256, 2200, 8e-3, plain_until=1400),
        "skills-arithmetic": Recipe(("arithmetic",), 128, 3, 4, 2, 352, 2200, 8e-3, plain_until=1100),
        "skills-strings": Recipe(("strings", "sorting"), 128, 3, 4, 2, 352, 2400, 8e-3, plain_until=700),
        "skills-general": Recipe(NAMES, 192, 5, 6, 2, 512, 6200, 6e-3, plain_until=600),
    }
)
