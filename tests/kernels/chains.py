"""Chains with random weights, for tests and speeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernels.chain.plan import ChainPlan, Predictor, Step
from kernels.masked_conv.layout import GROUP, Floats


def random_chain(
    plan: Sequence[int | str], *, inputs: int, side: int, rank: int | None = None, seed: int = 0
) -> ChainPlan:
    """A chain as `nodes.pruning` trains them: "M" halves, every convolution but the first has a predictor."""
    chance = np.random.default_rng(seed)

    def numbers(*shape: int) -> Floats:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 100
        drawn: Floats = (chance.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        return drawn

    steps: list[Step] = []
    channels = inputs
    for position, width in enumerate(plan):
        if isinstance(width, str):
            continue
        halve = plan[position + 1 : position + 2] == ("M",)
        middle = channels if rank is None else rank
        down = None if rank is None else numbers(rank, channels)
        groups = width // GROUP
        predictor = Predictor(numbers(groups, middle), numbers(groups), down) if steps else None
        steps.append(Step(numbers(width, channels, 3, 3), numbers(width), halve=halve, predictor=predictor))
        channels = width
    return ChainPlan(tuple(steps), numbers(10, channels), numbers(10), side)
