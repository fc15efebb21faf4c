"""What a forked classifier consists of, as plain arrays.

Shape letters: o outputs, i inputs, k side of the kernel, s numbers that the gate sees, h its hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import ShapeError
from kernels.masked_conv.layout import Floats


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or a linear layer, with ReLU behind all but the last.

    Args:
        weights: (o, i, k, k) of a convolution; (o, i) of a linear layer, which reads channels, then lines, then pixels.
        bias_o: Offsets.
        padding: Pixels of zeros around the input of a convolution.
        stride: Of a convolution.
        pool: Window and stride of the maxima behind it; 1 takes none.
        averaged: Whether the mean of the whole map is taken behind that.
    """

    weights: Floats
    bias_o: Floats
    padding: int = 0
    stride: int = 1
    pool: int = 1
    averaged: bool = False

    @property
    def conv(self) -> bool:
        """Whether it is a convolution."""
        return self.weights.ndim == 4

    def answered(self, side: int) -> int:
        """Side of its answer before pooling, from the side of its input."""
        return (side + 2 * self.padding - self.weights.shape[2]) // self.stride + 1 if self.conv else 1

    def left(self, side: int) -> int:
        """Side of what it leaves."""
        return 1 if self.averaged else self.answered(side) // self.pool


@dataclass(frozen=True, eq=False)
class Gate:
    """The second set of layers answers where ``relu(seen @ first + bias) @ second + threshold > 0``.

    Seen are, of the first layer's answer, the means over `cells` x `cells` cells channel by channel, then each
    channel's length.
    """

    cells: int
    first_sh: Floats
    bias_h: Floats
    second_h: Floats
    threshold: float


@dataclass(frozen=True, eq=False)
class ForkPlan:
    """A chain of layers, square pictures to probabilities.

    Args:
        side: Height and width of a picture.
        layers: In order; the first is a convolution, the last linear.
        others: What stands in for all layers behind the first where the gate says so; none without a gate.
        gate: None has `layers` answer always.
        upsample: Bilinear enlargement of the picture before the first layer.

    Raises:
        ShapeError: Something does not fit.
    """

    side: int
    layers: tuple[Layer, ...]
    others: tuple[Layer, ...] = ()
    gate: Gate | None = None
    upsample: int = 1

    def __post_init__(self) -> None:
        if len(self.layers) < 2 or not self.layers[0].conv or self.layers[-1].conv:
            raise ShapeError("a convolution must come first and a linear layer last")
        if min(self.side, self.upsample) < 1:
            raise ShapeError("a picture needs a pixel")
        self._check_chain()
        self._check_fork()

    def _check_chain(self) -> None:
        side, channels = self.side * self.upsample, self.channels
        for index, layer in enumerate(self.layers):
            inputs = channels if layer.conv else channels * side * side
            kernel = layer.weights.shape[2:]
            if layer.weights.shape[1] != inputs or layer.bias_o.shape != layer.weights.shape[:1]:
                raise ShapeError(f"layer {index}: weights must be (n, {inputs}, ...) with n offsets")
            if layer.conv and (len(set(kernel)) != 1 or layer.stride < 1 or layer.padding < 0):
                raise ShapeError(f"layer {index}: a kernel is square, a stride at least 1, a padding at least 0")
            if not layer.conv and (layer.pool > 1 or layer.averaged or layer.padding):
                raise ShapeError(f"layer {index}: nothing is padded, pooled or averaged at a linear layer")
            if layer.pool < 1 or layer.answered(side) < layer.pool:
                raise ShapeError(f"layer {index}: a side of {side} pixels is too small for it")
            channels, side = len(layer.bias_o), layer.left(side)

    def _check_fork(self) -> None:
        if self.gate is None:
            if self.others:
                raise ShapeError("a second set of layers needs a gate")
            return
        own = [(layer.weights.shape, layer.padding, layer.stride, layer.pool) for layer in self.layers[1:]]
        if own != [(layer.weights.shape, layer.padding, layer.stride, layer.pool) for layer in self.others]:
            raise ShapeError("both sets of layers must have the same shapes")
        hidden, first = len(self.gate.bias_h), self.layers[0]
        side = first.left(self.side * self.upsample)
        seen = len(first.bias_o) * (self.gate.cells**2 + 1)
        fits = self.gate.first_sh.shape == (seen, hidden) and self.gate.second_h.shape == (hidden,) and hidden
        if not fits or not 1 <= self.gate.cells <= side:
            raise ShapeError(
                f"the gate must map {seen} numbers to hidden units, those to one, and have cells within {side}"
            )

    @property
    def channels(self) -> int:
        """Of a picture."""
        return int(self.layers[0].weights.shape[1])

    @property
    def classes(self) -> int:
        """How many probabilities it gives."""
        return len(self.layers[-1].bias_o)
