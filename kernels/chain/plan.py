"""What a chain consists of, as plain arrays.

Shape letters: o outputs, i inputs, k side of the kernel, r rank, g groups of outputs, c channels, p classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import ShapeError
from kernels.masked_conv.layout import GROUP, Floats


@dataclass(frozen=True, eq=False)
class Predictor:
    """Which groups to compute: those whose logit, from the softmax of the input channels' maxima, is above zero.

    Args:
        up_gr: Map to logits, from the input channels (r = i) or from what `down_ri` leaves of them.
        offset_g: Added to the logits.
        down_ri: First of two maps; None for one.
    """

    up_gr: Floats
    offset_g: Floats
    down_ri: Floats | None = None


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A 3x3 convolution of each channel by itself, with ReLU, padded to keep the size.

    Args:
        weights_ikk: Its weights.
        bias_i: Offsets, of channels that had a value above zero before; the others stay silent.
        stride: 1 or 2.
    """

    weights_ikk: Floats
    bias_i: Floats
    stride: int = 1


@dataclass(frozen=True, eq=False)
class Step:
    """A convolution with ReLU, padded to keep the size.

    Args:
        weights_oikk: 1x1 or 3x3.
        bias_o: Offsets.
        stride: 1 or 2.
        halve: Take 2x2 maxima afterwards; the image's sides must then be even.
        predictor: None computes every group.
        keep: Remember the input, for the next step that adds.
        add: Add every so many-th pixel (1 or 2) of what was remembered, after ReLU; channels that it lacks count as
            zero. 0 adds nothing.
        depthwise: What filters the input first; predictor and convolution see what it leaves.
    """

    weights_oikk: Floats
    bias_o: Floats
    stride: int = 1
    halve: bool = False
    predictor: Predictor | None = None
    keep: bool = False
    add: int = 0
    depthwise: Depthwise | None = None

    @property
    def groups(self) -> int:
        """Groups of 16 outputs."""
        return len(self.bias_o) // GROUP


@dataclass(frozen=True, eq=False)
class ChainPlan:
    """Convolutions, then a linear map of each channel's mean, then softmax.

    Args:
        steps: In order.
        head_pc: The linear map.
        head_bias_p: Its offsets.
        side: Pixels of the square input's side.

    Raises:
        ShapeError: Something does not fit.
    """

    steps: tuple[Step, ...]
    head_pc: Floats
    head_bias_p: Floats
    side: int

    def __post_init__(self) -> None:
        channels, side = self.inputs, self.side
        kept: tuple[int, int] | None = None
        if side < 1 or channels < 1:
            raise ShapeError("an image needs a pixel and a channel")
        for index, step in enumerate(self.steps):
            _check(index, step, channels)
            kept = (channels, side) if step.keep else kept
            channels, side = len(step.bias_o), shrunk(step, side)
            kept = _added(index, step, kept, (channels, side))
            if step.halve and (side % 2 or side < 2):
                raise ShapeError(f"step {index}: a side of {side} pixels cannot be halved")
            side = side // 2 if step.halve else side
        if self.head_pc.shape != (len(self.head_bias_p), channels):
            raise ShapeError("the head does not fit the last step")

    @property
    def inputs(self) -> int:
        """Channels of the image."""
        if not self.steps:
            raise ShapeError("a chain needs a step")
        return int(self.steps[0].weights_oikk.shape[1])

    @property
    def groups(self) -> tuple[int, ...]:
        """Groups of each step."""
        return tuple(step.groups for step in self.steps)


def _added(index: int, step: Step, kept: tuple[int, int] | None, found: tuple[int, int]) -> tuple[int, int] | None:
    """What stays remembered after a step: channels and side."""
    if step.keep and not index:
        raise ShapeError("step 0: the image itself cannot be remembered")
    if not step.add:
        return kept
    if kept is None or step.halve or step.add not in (1, 2):
        raise ShapeError(f"step {index}: something must be remembered, to be added at stride 1 or 2, and not halved")
    if kept[0] > found[0] or -(-kept[1] // step.add) != found[1]:
        raise ShapeError(f"step {index}: {kept} channels and side, at stride {step.add}, cannot be added to {found}")
    return None


def shrunk(step: Step, side: int) -> int:
    """Pixels of a side after a step's convolutions, before it is halved."""
    filtered = side if step.depthwise is None else -(-side // step.depthwise.stride)
    return -(-filtered // step.stride)


def _check_depthwise(index: int, step: Step, inputs: int) -> None:
    layer = step.depthwise
    if layer is None:
        return
    if not index or step.keep:
        raise ShapeError(f"step {index}: neither the image itself nor what is remembered can be filtered by channel")
    if layer.weights_ikk.shape != (inputs, 3, 3) or layer.bias_i.shape != (inputs,) or layer.stride not in (1, 2):
        raise ShapeError(f"step {index}: depthwise weights must be ({inputs}, 3, 3), offsets as many, stride 1 or 2")


def _check(index: int, step: Step, inputs: int) -> None:
    _check_depthwise(index, step, inputs)
    outputs = len(step.bias_o)
    if step.weights_oikk.shape[:2] != (outputs, inputs) or outputs % GROUP or not outputs:
        raise ShapeError(f"step {index}: weights must be (16n, {inputs}, k, k) with as many offsets")
    if step.stride not in (1, 2):
        raise ShapeError(f"step {index}: strides are 1 or 2, not {step.stride}")
    if step.predictor is None:
        return
    predictor = step.predictor
    if inputs % GROUP:
        raise ShapeError(f"step {index}: a predictor reads whole groups of 16 channels, not {inputs}")
    middle = inputs if predictor.down_ri is None else len(predictor.down_ri)
    down_fits = predictor.down_ri is None or predictor.down_ri.shape == (middle, inputs)
    if predictor.up_gr.shape != (step.groups, middle) or len(predictor.offset_g) != step.groups or not down_fits:
        raise ShapeError(f"step {index}: its predictor does not map {inputs} channels to {step.groups} groups")
