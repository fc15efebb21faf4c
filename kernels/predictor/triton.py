"""The mask predictor in Triton: one program pools a group of channels, one decides about an image's mask.

State: right under Triton's interpreter; speed not run. Formula: `kernels.chain.reference.predict`.

Shape letters: n samples, g groups of 16 outputs, c input channels, r rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.chain.plan import Predictor as Numbers
from kernels.errors import ShapeError
from kernels.gpu import require_usable, tl, torch, triton
from kernels.masked_conv.layout import GROUP, groups_of

BLOCK = 64


@triton.jit
def _peak(image, mask_in, peaks, pixels, groups, BLOCK: tl.constexpr):
    """Largest value of each of 16 channels; zero where the group is pruned, and then nothing is read."""
    sample, group = tl.program_id(0), tl.program_id(1)
    lanes = tl.arange(0, 16)
    top = tl.zeros((16,), tl.float32)
    if tl.load(mask_in + sample * groups + group) != 0:
        found = tl.full((BLOCK, 16), float("-inf"), tl.float32)
        plane = (sample * groups + group) * pixels
        for start in range(0, pixels, BLOCK):
            spot = start + tl.arange(0, BLOCK)
            at = (plane + spot)[:, None] * 16 + lanes[None, :]
            found = tl.maximum(found, tl.load(image + at, mask=(spot < pixels)[:, None], other=float("-inf")))
        top = tl.max(found, axis=0)
    tl.store(peaks + (sample * groups + group) * 16 + lanes, top)


@triton.jit
def _decide(
    peaks,
    down,
    up,
    offset,
    mask_out,
    logits_out,
    channels,
    stride,
    groups,
    rank,
    CHANNELS: tl.constexpr,
    RANK: tl.constexpr,
    GROUPS: tl.constexpr,
    LOW: tl.constexpr,
):
    """Softmax of the peaks, the map or maps, and the groups above zero; the largest in any case."""
    sample = tl.program_id(0)
    c, g = tl.arange(0, CHANNELS), tl.arange(0, GROUPS)
    peak = tl.load(peaks + sample * stride + c, mask=c < channels, other=float("-inf"))
    raised = tl.exp(peak - tl.max(peak, axis=0))
    share = raised / tl.sum(raised, axis=0) * channels
    if LOW:
        r = tl.arange(0, RANK)
        first = tl.load(
            down + r[:, None] * channels + c[None, :], mask=(r < rank)[:, None] & (c < channels)[None, :], other=0.0
        )
        middle = tl.sum(first * share[None, :], axis=1)
        second = tl.load(
            up + g[:, None] * rank + r[None, :], mask=(g < groups)[:, None] & (r < rank)[None, :], other=0.0
        )
        logit = tl.sum(second * middle[None, :], axis=1)
    else:
        only = tl.load(
            up + g[:, None] * channels + c[None, :], mask=(g < groups)[:, None] & (c < channels)[None, :], other=0.0
        )
        logit = tl.sum(only * share[None, :], axis=1)
    logit += tl.load(offset + g, mask=g < groups, other=0.0)
    logit = tl.where(g < groups, logit, float("-inf"))
    wanted = (logit > 0) | (g == tl.argmax(logit, axis=0))
    tl.store(mask_out + sample * groups + g, wanted.to(tl.uint8), mask=g < groups)
    tl.store(logits_out + sample * groups + g, logit, mask=g < groups)


class Predictor:
    """A predictor's numbers on a device, ready to decide.

    Args:
        numbers: As a chain's step holds them.
        device: Where to run; "cpu" only under the interpreter.

    Raises:
        KernelMissing: Nothing here can run it.

    Accuracy: logits within 1e-4 of the formula in double precision.
    """

    def __init__(self, numbers: Numbers, *, device: str = "cuda") -> None:
        require_usable()
        up_gr, down_ri = numbers.up_gr, numbers.down_ri
        self.groups = len(up_gr)
        self.channels = up_gr.shape[1] if down_ri is None else down_ri.shape[1]
        self.rank = 0 if down_ri is None else len(down_ri)
        self._up, self._offset = _placed(up_gr, device), _placed(numbers.offset_g, device)
        self._down = self._up if down_ri is None else _placed(down_ri, device)

    def __call__(self, image: Any, mask_in_ng: Any) -> tuple[Any, Any]:
        """Masks (n, g), uint8, and the logits (n, g) behind them.

        Args:
            image: (n, groups of inputs, h, w, 16), contiguous float32.
            mask_in_ng: uint8; what is zero is not read, and its peaks count as 0.

        Raises:
            ShapeError: An array is not what the kernel can read.
        """
        samples, in_groups, height, width, lanes = image.shape
        fits = in_groups == groups_of(self.channels) and lanes == GROUP and image.is_contiguous()
        if not fits or tuple(mask_in_ng.shape) != (samples, in_groups) or mask_in_ng.dtype != torch.uint8:
            raise ShapeError(f"an image of {self.channels} channels and a uint8 mask of its groups are needed")
        place = {"device": image.device}
        peaks = torch.empty((samples, in_groups * GROUP), dtype=torch.float32, **place)
        _peak[(samples, in_groups)](image, mask_in_ng, peaks, height * width, in_groups, BLOCK=BLOCK)
        mask_ng = torch.empty((samples, self.groups), dtype=torch.uint8, **place)
        logits_ng = torch.empty((samples, self.groups), dtype=torch.float32, **place)
        _decide[(samples,)](
            peaks,
            self._down,
            self._up,
            self._offset,
            mask_ng,
            logits_ng,
            self.channels,
            in_groups * GROUP,
            self.groups,
            self.rank,
            CHANNELS=triton.next_power_of_2(self.channels),
            RANK=triton.next_power_of_2(max(self.rank, 1)),
            GROUPS=triton.next_power_of_2(self.groups),
            LOW=self.rank > 0,
        )
        return mask_ng, logits_ng


def _placed(values: np.ndarray, device: str) -> Any:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
