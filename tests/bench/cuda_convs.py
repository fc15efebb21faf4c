"""The masked convolution in Triton on a GPU, against cuDNN on the whole layer and on one that was pruned for good.

One run, everybody in turns, each turn with other masks, batch 1 and 32. At batch 32 the masks are given once for each
sample and once for the whole batch. Times are CUDA events around single launches, clocks as the machine has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.errors import KernelMissing
from kernels.masked_conv.cpu import ConvShape
from kernels.masked_conv.layout import GROUP, pack_image, unpack_image
from kernels.masked_conv.reference import masked_conv
from tests.bench.harness import NOT_RUN, Bar, Row

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
KEPT = {"half": 2, "quarter": 4}
BATCHES = (1, 32)
ROUNDS, WARM_UP, MASKS = 200, 20, 64

# Of speed there are none: nobody has run it.
BARS = [Bar("cuda_max_error", 1e-4, "<=")]

Contestant = Callable[[int], object]


def require_gpu() -> Any:
    """PyTorch with a GPU and Triton beside it; else exit 77 saying what was not run."""
    try:
        from kernels.gpu import interpreted, torch
    except KernelMissing as missing:
        print(f"not run: {missing}")
        raise SystemExit(NOT_RUN) from missing
    if interpreted() or not torch.cuda.is_available():
        print("not run: no GPU (speeds under Triton's interpreter say nothing)")
        raise SystemExit(NOT_RUN)
    return torch


def run() -> list[Row]:
    """All layers, shares and batches."""
    torch = require_gpu()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    rows: list[Row] = []
    errors = []
    for kept, share in KEPT.items():
        for channels, side in LAYERS:
            errors.append(error_of(torch, channels, side, share))
            for batch in BATCHES:
                rows += rows_of(torch, (channels, side, batch), kept, share)
    return [*rows, Row("cuda_max_error", max(errors), "1", {"gpu": torch.cuda.get_device_name()})]


def masks_of(rows: int, groups: int, share: int, seed: int) -> Any:
    """Random rows (m, g) that keep one group in `share`."""
    chance = np.random.default_rng(seed)
    mask = np.zeros((rows, groups), np.uint8)
    for row in mask:
        row[chance.permutation(groups)[: groups // share]] = 1
    return mask


def numbers(channels: int) -> tuple[Any, Any]:
    """Weights and offsets."""
    chance = np.random.default_rng(channels)
    weights = chance.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels)
    return weights.astype(np.float32), chance.standard_normal(channels).astype(np.float32)


def error_of(torch: Any, channels: int, side: int, share: int) -> float:
    """Largest difference from the formula over the largest output."""
    from kernels.masked_conv.triton import MaskedConv

    weights, bias = numbers(channels)
    image = np.maximum(np.random.default_rng(1).standard_normal((channels, side, side)), 0).astype(np.float32)
    groups = channels // GROUP
    ins, outs = masks_of(1, groups, share, 2), masks_of(1, groups, share, 3)
    conv = MaskedConv(weights, bias, ConvShape(side, side))
    output = conv.output(1)
    conv(
        torch.from_numpy(pack_image(image)[None]).cuda(),
        torch.from_numpy(ins).cuda(),
        torch.from_numpy(outs).cuda(),
        output,
    )
    active = np.flatnonzero(np.repeat(ins[0], GROUP)).astype(np.int32)
    expected = masked_conv(
        image, weights, bias, active_in=active, active_groups=np.flatnonzero(outs[0]).astype(np.int32)
    )
    return float(np.abs(unpack_image(output[0].cpu().numpy(), channels) - expected).max() / np.abs(expected).max())


def rows_of(torch: Any, size: tuple[int, int, int], kept: str, share: int) -> list[Row]:
    """One layer at one batch and share."""
    channels, side, batch = size
    us = times_us(torch, contestants(torch, size, share))
    sizes: dict[str, object] = {"channels": channels, "side": side, "batch": batch, "kept": kept}
    sizes["gpu"] = torch.cuda.get_device_name()
    at = f"{kept}_{channels}x{side}_batch{batch}"
    rows = [Row(f"cuda_{name}_{at}_us", value, "us", sizes) for name, value in us.items()]
    ours = [name for name in us if name.startswith("triton")]
    return rows + [Row(f"cuda_{name}_{at}_over_dense", us["dense"] / us[name], "x", sizes) for name in ours]


def contestants(torch: Any, size: tuple[int, int, int], share: int) -> dict[str, Contestant]:
    """cuDNN on everything, cuDNN on what one mask leaves, and ours under ever new masks."""
    from kernels.masked_conv.triton import MaskedConv

    channels, side, batch = size
    weights, bias = (torch.from_numpy(array).cuda() for array in numbers(channels))
    small = channels // share
    narrow = weights[:small, :small].contiguous()
    image = torch.relu(torch.randn(batch, channels, side, side, device="cuda"))
    conv = MaskedConv(*numbers(channels), ConvShape(side, side))
    packed = torch.from_numpy(np.stack([pack_image(one) for one in image.cpu().numpy()])).cuda()
    output = conv.output(batch)

    def cudnn(kernel: Any) -> Contestant:
        offsets, part = bias[: len(kernel)], image[:, : kernel.shape[1]].contiguous()
        return lambda _: torch.relu_(torch.nn.functional.conv2d(part, kernel, offsets, padding=1))

    def masked(rows: int) -> Contestant:
        def drawn(first_seed: int) -> list[Any]:
            groups = channels // GROUP
            return [torch.from_numpy(masks_of(rows, groups, share, first_seed + k)).cuda() for k in range(MASKS)]

        ins, outs = drawn(0), drawn(MASKS)
        return lambda turn: conv(packed, ins[turn % MASKS], outs[turn % MASKS], output)

    ours = {"triton_each": masked(batch)} | ({"triton_together": masked(1)} if batch > 1 else {})
    return {"dense": cudnn(weights), "static": cudnn(narrow), **ours}


def times_us(torch: Any, runners: dict[str, Contestant]) -> dict[str, float]:
    """Median microseconds on the GPU; in every round each runs once, in random order."""
    chance = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(-WARM_UP, ROUNDS):
        for name in chance.permutation(list(runners)):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            runners[name](turn)
            after.record()
            torch.cuda.synchronize()
            if turn >= 0:
                taken[name].append(before.elapsed_time(after) * 1e3)
    return {name: float(np.median(us)) for name, us in taken.items()}
