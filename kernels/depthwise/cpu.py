"""The depthwise convolution on a CPU. Shape letters: c channels, g groups, h and w pixels, a active groups."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from kernels.errors import KernelError, ShapeError
from kernels.masked_conv.cpu import Ints
from kernels.masked_conv.layout import GROUP, Floats, aligned, groups_of, pack_weights, pad_outputs
from kernels.native.library import Isa, chosen, library


class DepthFields(ctypes.Structure):
    """``Depthwise`` of depthwise.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("channels", "height", "width", "out_height", "out_width", "stride")],
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("input", "before", "output", "pooled", "groups")],
        ("count", ctypes.c_int32),
    ]


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights (g, 1, 9, 16) and offsets (16g) as the kernel reads them; they must outlive `fields`."""

    weights: Floats
    bias: Floats
    fields: DepthFields


def packed(weights_ckk: Floats, bias_c: Floats, size: tuple[int, int], *, stride: int = 1) -> Packed:
    """A layer ready to run on images of `size`, height and width.

    Raises:
        ShapeError: Weights, offsets, stride or size do not fit the kernel.
    """
    channels, (height, width) = len(bias_c), size
    if weights_ckk.shape != (channels, 3, 3) or not channels:
        raise ShapeError(f"depthwise weights must be (c, 3, 3) with as many offsets, not {weights_ckk.shape}")
    if stride not in (1, 2) or min(size) < 1:
        raise ShapeError("stride 1 or 2, and an image of at least one pixel are needed")
    weights, bias = pack_weights(np.asarray(weights_ckk[:, None], np.float32)), pad_outputs(bias_c)
    fields = DepthFields(
        channels=channels,
        height=height,
        width=width,
        out_height=-(-height // stride),
        out_width=-(-width // stride),
        stride=stride,
        weights=weights.ctypes.data,
        bias=bias.ctypes.data,
    )
    return Packed(weights, bias, fields)


def depthwise(layer: Packed, image: Floats, active_groups: Ints, output: Floats, *, isa: Isa | None = None) -> Floats:
    """Filter the active groups of `image` (g, h, w, 16) into `output`; returns the largest value of each channel.

    What is not active is not read, and stays as it was in the output; its largest value counts as zero.

    Raises:
        ShapeError: An array or a group does not fit.
        KernelMissing: The library, or this instruction set, cannot be used here.

    Cost: 9 multiply-accumulates per pixel and active channel.
    """
    fields, groups = layer.fields, groups_of(layer.fields.channels)
    for array, height, width in (
        (image, fields.height, fields.width),
        (output, fields.out_height, fields.out_width),
    ):
        expected = (groups, height, width, GROUP)
        if array.shape != expected or array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ShapeError(f"an image must be contiguous float32 {expected}, not {array.dtype} {array.shape}")
    if active_groups.dtype != np.int32 or active_groups.ndim != 1 or not active_groups.flags.c_contiguous:
        raise ShapeError("active groups are a contiguous list of int32")
    before, pooled = _peaks(image, active_groups), aligned(groups * GROUP)
    arrays = image, before, output, pooled, active_groups
    call = _Call(*(array.ctypes.data for array in arrays), len(active_groups))
    status = library().edgewise_depthwise(int(chosen(isa)), ctypes.byref(fields), ctypes.byref(call))
    if status:
        raise ShapeError("an active group is outside") if status == 2 else KernelError("no such code")
    return pooled


def _peaks(image: Floats, active_groups: Ints) -> Floats:
    """What the layer before would have told: the largest value of each channel that is there."""
    peaks = aligned(len(image), GROUP)
    inside = active_groups[(active_groups >= 0) & (active_groups < len(image))]
    peaks[inside] = image[inside].max(axis=(1, 2))
    return peaks.reshape(-1)
