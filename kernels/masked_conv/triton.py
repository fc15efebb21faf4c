"""The masked convolution in Triton: a program sums a tile of pixels over the active input groups alone.

Images and weights lie as on the CPU (`layout`), with the batch in front: (n, g, h, w, 16) and (g, i, t, 16). A row
of masks serves `shared` neighbouring samples of the batch: one each, all of them, or groups of equal size.

State: right under Triton's interpreter; speed not run.

Shape letters: n samples, m rows of masks, g groups of 16, i inputs, t taps, o outputs, h and w pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.errors import ShapeError
from kernels.gpu import require_usable, tl, torch, triton
from kernels.masked_conv.cpu import ConvShape, Pooling
from kernels.masked_conv.layout import GROUP, Floats, groups_of, pack_weights, pad_outputs

BLOCK = 64


@triton.jit
def _list_active(mask, listed, counts, groups, PADDED: tl.constexpr):
    """Numbers of the non-zero entries of a row, ascending, and how many they are."""
    row = tl.program_id(0)
    lanes = tl.arange(0, PADDED)
    wanted = (tl.load(mask + row * groups + lanes, mask=lanes < groups, other=0) != 0).to(tl.int32)
    place = tl.cumsum(wanted, axis=0) - 1
    tl.store(listed + row * groups + place, lanes, mask=wanted != 0)
    tl.store(counts + row, tl.sum(wanted, axis=0))


@triton.jit
def _conv(
    image,
    weights,
    bias,
    output,
    listed,
    counts,
    mask_out,
    shared,
    inputs,
    in_groups,
    out_groups,
    height,
    width,
    out_height,
    out_width,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One tile of pixels of one group of outputs; a pruned group ends at once, a pruned input is not read."""
    row, group = tl.program_id(1), tl.program_id(2)
    if tl.load(mask_out + row * out_groups + group) != 0:
        lanes = tl.arange(0, 16)
        spot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        area = out_height * out_width
        inside = spot < shared * area
        sample = row * shared + spot // area
        top = (spot % area) // out_width * STRIDE - SIDE // 2
        left = spot % out_width * STRIDE - SIDE // 2
        total = tl.zeros((BLOCK, 16), tl.float32) + tl.load(bias + group * 16 + lanes)[None, :]
        for k in range(tl.load(counts + row)):
            source = tl.load(listed + row * in_groups + k)
            channel = source * 16 + lanes
            plane = (sample * in_groups + source) * height
            tile = weights + (group * inputs + channel)[:, None] * (SIDE * SIDE * 16) + lanes[None, :]
            for tap in tl.static_range(SIDE * SIDE):
                y, x = top + tap // SIDE, left + tap % SIDE
                seen = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
                at = ((plane + y) * width + x) * 16
                pixels = tl.load(image + at[:, None] + lanes[None, :], mask=seen[:, None], other=0.0)
                taps = tl.load(tile + tap * 16, mask=(channel < inputs)[:, None], other=0.0)
                # Sixteen by sixteen is the least that the matrix units take; "ieee" keeps all 32 bits.
                total += tl.dot(pixels, taps, input_precision="ieee")
        if RELU:
            total = tl.maximum(total, 0.0)
        to = ((sample * out_groups + group) * area + spot % area) * 16
        tl.store(output + to[:, None] + lanes[None, :], total, mask=inside[:, None])


class MaskedConv:
    """One convolution, 3x3 padded by 1 or 1x1, of a batch under masks of input and output groups.

    Args:
        weights_oikk: Its weights.
        bias_o: Its offsets.
        shape: Of its images; nothing is pooled, `kernels.predictor.triton` does that.
        device: Where to run; "cpu" only under the interpreter.

    Raises:
        ShapeError: Weights, offsets and shape do not fit the kernel.
        KernelMissing: Nothing here can run it.

    Cost: active inputs x active outputs x taps x pixels multiply-accumulates, outside pixels included.
    Accuracy: largest error within 1e-4 of the largest output (32-bit sums, no TF32).
    """

    def __init__(self, weights_oikk: Floats, bias_o: Floats, shape: ConvShape, *, device: str = "cuda") -> None:
        outputs, self.inputs = weights_oikk.shape[:2]
        if len(bias_o) != outputs or shape.stride not in (1, 2) or min(shape.height, shape.width) < 1:
            raise ShapeError("one offset per output, stride 1 or 2, and an image of at least one pixel are needed")
        if shape.pooling is not Pooling.NONE:
            raise ShapeError("the Triton convolution pools nothing; its predictor reads the image")
        require_usable()
        self.shape, self.side = shape, weights_oikk.shape[2]
        self.in_groups, self.groups = groups_of(self.inputs), groups_of(outputs)
        self.out_height, self.out_width = -(-shape.height // shape.stride), -(-shape.width // shape.stride)
        self._weights = torch.from_numpy(pack_weights(np.asarray(weights_oikk, np.float32))).to(device)
        self._bias = torch.from_numpy(pad_outputs(bias_o)).to(device)

    def output(self, samples: int) -> Any:
        """Zeros (n, g, h, w, 16) for the output of so many samples."""
        shape = samples, self.groups, self.out_height, self.out_width, GROUP
        return torch.zeros(shape, dtype=torch.float32, device=self._bias.device)

    def __call__(self, image: Any, mask_in_mg: Any, mask_out_mg: Any, output: Any) -> None:
        """Compute the active groups of the output; what is not active stays as it was.

        Args:
            image: (n, g, h, w, 16), contiguous float32.
            mask_in_mg: uint8, non-zero where the input group is to be read; m divides n.
            mask_out_mg: uint8, non-zero where the output group is to be computed.
            output: As `output` gives it.

        Raises:
            ShapeError: An array is not what the kernel can read.
        """
        samples, rows = len(image), len(mask_in_mg)
        self._check(image, mask_in_mg, mask_out_mg, output)
        listed, counts = list_active(mask_in_mg)
        shared = samples // rows
        tiles = triton.cdiv(shared * self.out_height * self.out_width, BLOCK)
        _conv[(tiles, rows, self.groups)](
            image,
            self._weights,
            self._bias,
            output,
            listed,
            counts,
            mask_out_mg,
            shared,
            self.inputs,
            self.in_groups,
            self.groups,
            self.shape.height,
            self.shape.width,
            self.out_height,
            self.out_width,
            SIDE=self.side,
            STRIDE=self.shape.stride,
            RELU=self.shape.relu,
            BLOCK=BLOCK,
        )

    def _check(self, image: Any, mask_in_mg: Any, mask_out_mg: Any, output: Any) -> None:
        samples, rows = len(image), len(mask_in_mg)
        if not rows or samples % rows:
            raise ShapeError(f"{rows} rows of masks cannot be shared evenly by {samples} samples")
        pixels = self.shape.height, self.shape.width
        out_pixels = self.out_height, self.out_width
        expected = (
            (image, torch.float32, (samples, self.in_groups, *pixels, GROUP)),
            (output, torch.float32, (samples, self.groups, *out_pixels, GROUP)),
            (mask_in_mg, torch.uint8, (rows, self.in_groups)),
            (mask_out_mg, torch.uint8, (rows, self.groups)),
        )
        for array, kind, shape in expected:
            if tuple(array.shape) != shape or array.dtype != kind or not array.is_contiguous():
                raise ShapeError(f"contiguous {kind} {shape} is needed, not {array.dtype} {tuple(array.shape)}")
            if array.device != self._bias.device:
                raise ShapeError(f"all arrays must lie on {self._bias.device}, not on {array.device}")


def list_active(mask_mg: Any) -> tuple[Any, Any]:
    """Active groups of each row, ascending, in the first places of (m, g); and their counts (m)."""
    rows, groups = mask_mg.shape
    listed = torch.zeros((rows, groups), dtype=torch.int32, device=mask_mg.device)
    counts = torch.zeros(rows, dtype=torch.int32, device=mask_mg.device)
    _list_active[(rows,)](mask_mg, listed, counts, groups, PADDED=triton.next_power_of_2(groups))
    return listed, counts


def union(mask_ng: Any, shared: int) -> Any:
    """One row (m, g) for every `shared` neighbours, of all groups that any of them wants."""
    samples, groups = mask_ng.shape
    if shared < 1 or samples % shared:
        raise ShapeError(f"{samples} samples cannot share masks by {shared}")
    return mask_ng.view(samples // shared, shared, groups).amax(dim=1).contiguous()
