"""How images and weights lie in memory: in groups of 16 channels that are neighbours.

Shape letters: c channels, o outputs, i inputs, g groups, h and w pixels, k side of the kernel, t its taps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ShapeError

GROUP = 16
_CACHE_LINE_FLOATS = 16

Floats = NDArray[np.float32]


def groups_of(channels: int) -> int:
    """Groups that hold so many channels."""
    return -(-channels // GROUP)


def aligned(*shape: int) -> Floats:
    """Zeros that begin at a cache line."""
    count = int(np.prod(shape))
    room = np.zeros(count + _CACHE_LINE_FLOATS, dtype=np.float32)
    start = -(room.ctypes.data // 4) % _CACHE_LINE_FLOATS
    return room[start : start + count].reshape(shape)


def pack_image(image_chw: Floats) -> Floats:
    """(c, h, w) to (g, h, w, 16); channels beyond c are zero."""
    channels, height, width = image_chw.shape
    packed = aligned(groups_of(channels), height, width, GROUP)
    for group in range(len(packed)):
        part = image_chw[group * GROUP : (group + 1) * GROUP]
        packed[group, :, :, : len(part)] = part.transpose(1, 2, 0)
    return packed


def unpack_image(packed: Floats, channels: int) -> Floats:
    """(g, h, w, 16) to (c, h, w)."""
    groups, height, width, _ = packed.shape
    return np.ascontiguousarray(packed.transpose(0, 3, 1, 2).reshape(groups * GROUP, height, width)[:channels])


def pack_weights(weights_oikk: Floats) -> Floats:
    """(o, i, k, k) to (g, i, t, 16); outputs beyond o are zero.

    Raises:
        ShapeError: The kernel is neither 1x1 nor 3x3.
    """
    outputs, inputs, rows, columns = weights_oikk.shape
    if rows != columns or rows not in (1, 3):
        raise ShapeError(f"kernels are 1x1 or 3x3, not {rows}x{columns}")
    packed = aligned(groups_of(outputs), inputs, rows * columns, GROUP)
    flat_oit = weights_oikk.reshape(outputs, inputs, rows * columns)
    for group in range(len(packed)):
        part = flat_oit[group * GROUP : (group + 1) * GROUP]
        packed[group, :, :, : len(part)] = part.transpose(1, 2, 0)
    return packed


def pad_outputs(bias_o: Floats) -> Floats:
    """(o) to whole groups, the rest zero."""
    padded = aligned(groups_of(len(bias_o)) * GROUP)
    padded[: len(bias_o)] = bias_o
    return padded
