"""The depthwise convolution as a formula: slow, short, in double precision.

Shape letters: c channels, h and w pixels.
"""

from __future__ import annotations

import numpy as np

from kernels.masked_conv.layout import Floats
from kernels.masked_conv.reference import Doubles


def depthwise(image_chw: Floats | Doubles, weights_ckk: Floats, bias_c: Floats, *, stride: int = 1) -> Doubles:
    """3x3, padded by 1, with ReLU; a channel without a value above zero stays zero, whatever its offset."""
    padded = np.pad(image_chw.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    found = np.einsum("chwyx,cyx->chw", windows, weights_ckk.astype(np.float64)) + bias_c[:, None, None]
    alive_c11 = image_chw.max(axis=(1, 2), keepdims=True) > 0
    result: Doubles = np.maximum(found, 0.0) * alive_c11
    return result
