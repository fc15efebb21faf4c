"""The masked convolution on a CPU: weights packed once, masked channels skipped where they lie, nothing copied.

Shape letters: g groups of outputs, n active inputs, a active groups.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kernels.errors import KernelError, ShapeError
from kernels.masked_conv.layout import GROUP, Floats, aligned, groups_of, pack_weights, pad_outputs
from kernels.native.library import Isa, chosen, library

Ints = NDArray[np.int32]


class Pooling(IntEnum):
    """What a convolution tells about each output channel besides the image."""

    NONE = 0
    MAX = 1
    MEAN = 2


class ConvFields(ctypes.Structure):
    """``Conv`` of masked_conv.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("inputs", "outputs", "height", "width", "out_height", "out_width")],
        *[(name, ctypes.c_int32) for name in ("kernel", "stride", "relu", "pooling")],
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("input", "output", "pooled", "active_in", "active_groups")],
        ("in_count", ctypes.c_int32),
        ("group_count", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class ConvShape:
    """What a convolution's image looks like.

    Args:
        height, width: Of the input.
        stride: 1 or 2.
        relu: Negative outputs become zero.
        pooling: Per channel, over the output.
    """

    height: int
    width: int
    stride: int = 1
    relu: bool = True
    pooling: Pooling = Pooling.NONE


class MaskedConv:
    """One convolution, 3x3 padded by 1 or 1x1, ready to run under any mask.

    Args:
        weights_oikk: Its weights.
        bias_o: Its offsets.
        shape: Of its image.
        isa: Instruction set; None for the fastest here.

    Raises:
        ShapeError: Weights, offsets and shape do not fit the kernel.
        KernelMissing: The library, or this instruction set, cannot be used here.

    Cost: active inputs x active outputs x taps x pixels multiply-accumulates, less what the edges leave out.
    Traffic: the weights of the active pairs once, the active input once per three active groups.
    Accuracy: largest error within 1e-4 of the largest output (32-bit sums in the order of the inputs).
    """

    def __init__(self, weights_oikk: Floats, bias_o: Floats, shape: ConvShape, *, isa: Isa | None = None) -> None:
        outputs, self.inputs = weights_oikk.shape[:2]
        if len(bias_o) != outputs or shape.stride not in (1, 2) or min(shape.height, shape.width) < 1:
            raise ShapeError("one offset per output, stride 1 or 2, and an image of at least one pixel are needed")
        self.isa = chosen(isa)
        self.shape = shape
        self.groups = groups_of(outputs)
        self.out_height, self.out_width = -(-shape.height // shape.stride), -(-shape.width // shape.stride)
        self._weights, self._bias = pack_weights(np.asarray(weights_oikk, np.float32)), pad_outputs(bias_o)
        self.pooled = aligned(self.groups * GROUP)
        self.fields = conv_fields(self._weights, self._bias, shape, self.inputs)

    def output(self) -> Floats:
        """Room (g, h, w, 16) for an output."""
        return aligned(self.groups, self.out_height, self.out_width, GROUP)

    def bind(self, image: Floats, output: Floats) -> BoundConv:
        """This convolution between two arrays, ready to be called with ever new masks.

        Args:
            image: As `pack_image` gives it.
            output: As `output` gives it.

        Raises:
            ShapeError: An array is not what the kernel can read.
        """
        expected = (groups_of(self.inputs), self.shape.height, self.shape.width, GROUP)
        for array, shape in ((image, expected), (output, (self.groups, self.out_height, self.out_width, GROUP))):
            if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise ShapeError(f"an image must be contiguous float32 {shape}, not {array.dtype} {array.shape}")
        return BoundConv(self, image, output)

    def __call__(self, image: Floats, active_in: Ints, active_groups: Ints, output: Floats) -> None:
        """Bind and run once, see `BoundConv`."""
        self.bind(image, output)(active_in, active_groups)


class BoundConv:
    """A convolution between two arrays; made by `MaskedConv.bind`. Cost of a call: some 3 us beside the kernel."""

    def __init__(self, conv: MaskedConv, image: Floats, output: Floats) -> None:
        self._kept = conv, image, output
        self._call = _Call(input=image.ctypes.data, output=output.ctypes.data, pooled=conv.pooled.ctypes.data)
        self._fields, self._passed, self._isa = ctypes.byref(conv.fields), ctypes.byref(self._call), int(conv.isa)
        self._run = library().edgewise_conv

    def __call__(self, active_in: Ints, active_groups: Ints) -> None:
        """Compute the active groups of the output (g, h, w, 16) from the active channels of the image.

        What is not active stays as it was, in the output and in `MaskedConv.pooled`.

        Args:
            active_in: Input channels (n), any of them, in any order.
            active_groups: Groups (a) of 16 outputs.

        Raises:
            ShapeError: A list is not of int32, or points outside.
        """
        call = self._call
        call.active_in, call.in_count = _list(active_in)
        call.active_groups, call.group_count = _list(active_groups)
        status = self._run(self._isa, self._fields, self._passed)
        if status:
            raise ShapeError("an active channel or group is outside") if status == 2 else KernelError("no such code")


def _list(numbers: Ints) -> tuple[int, int]:
    if numbers.dtype != np.int32 or numbers.ndim != 1 or not numbers.flags.c_contiguous:
        raise ShapeError("active channels and groups are contiguous lists of int32")
    return numbers.__array_interface__["data"][0], len(numbers)


def conv_fields(weights: Floats, bias: Floats, shape: ConvShape, inputs: int) -> ConvFields:
    """What the compiled code reads; the arrays must outlive it."""
    return ConvFields(
        inputs=inputs,
        outputs=len(bias),
        height=shape.height,
        width=shape.width,
        out_height=-(-shape.height // shape.stride),
        out_width=-(-shape.width // shape.stride),
        kernel={1: 1, 9: 3}[weights.shape[2]],
        stride=shape.stride,
        relu=shape.relu,
        pooling=int(shape.pooling),
        weights=weights.ctypes.data,
        bias=bias.ctypes.data,
    )
