"""The masked convolution as a formula: slow, short, in double precision.

Shape letters: o outputs, i inputs, h and w pixels, k side of the kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.masked_conv.layout import GROUP, Floats

Doubles = NDArray[np.float64]


def masked_conv(
    image_ihw: Floats | Doubles,
    weights_oikk: Floats,
    bias_o: Floats,
    *,
    active_in: NDArray[np.int32],
    active_groups: NDArray[np.int32],
    stride: int = 1,
    relu: bool = True,
) -> Doubles:
    """Output (o, h, w) of the active groups of 16 from the active inputs; zero elsewhere."""
    side = weights_oikk.shape[2]
    margin = side // 2
    padded = np.pad(image_ihw[active_in].astype(np.float64), ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    out = np.einsum("ihwyx,oiyx->ohw", windows, weights_oikk[:, active_in].astype(np.float64), optimize=True)
    out += bias_o[:, None, None]
    active_o = np.isin(np.arange(len(bias_o)) // GROUP, active_groups)
    out[~active_o] = 0.0
    result: Doubles = np.maximum(out, 0.0) if relu else out
    return result
