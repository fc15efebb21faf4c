"""Chains with random weights, for tests and speeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernels.chain.plan import ChainPlan, Depthwise, Predictor, Step
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


def random_residual(widths: Sequence[int], *, inputs: int, side: int, blocks: int = 2, seed: int = 0) -> ChainPlan:
    """A residual network as `nodes.pruning` trains them: two steps a block, wider stages at stride 2."""
    chance = np.random.default_rng(seed)

    def numbers(*shape: int) -> Floats:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 100
        drawn: Floats = (chance.standard_normal(shape) * np.sqrt(1 / fan)).astype(np.float32)
        return drawn

    def gate(channels: int, width: int) -> Predictor:
        return Predictor(numbers(width // GROUP, channels), numbers(width // GROUP))

    channels = widths[0]
    steps = [Step(numbers(channels, inputs, 3, 3), numbers(channels))]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            first = numbers(width, channels, 3, 3), numbers(width), stride
            steps.append(Step(*first, predictor=gate(channels, width), keep=True))
            steps.append(Step(numbers(width, width, 3, 3), numbers(width), predictor=gate(width, width), add=stride))
            channels = width
    return ChainPlan(tuple(steps), numbers(10, channels), numbers(10), side)


def random_separable(blocks: Sequence[tuple[int, int]], *, inputs: int, side: int, seed: int = 0) -> ChainPlan:
    """A MobileNet as `nodes.pruning` trains them: a stem, then channels and stride of each separable block."""
    chance = np.random.default_rng(seed)

    def numbers(*shape: int) -> Floats:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 100
        drawn: Floats = (chance.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        return drawn

    channels = blocks[0][0]
    steps = [Step(numbers(channels, inputs, 3, 3), numbers(channels))]
    for width, stride in blocks:
        filters = Depthwise(numbers(channels, 3, 3), numbers(channels), stride)
        gate = Predictor(numbers(width // GROUP, channels), numbers(width // GROUP))
        steps.append(Step(numbers(width, channels, 1, 1), numbers(width), predictor=gate, depthwise=filters))
        channels = width
    return ChainPlan(tuple(steps), numbers(10, channels), numbers(10), side)
