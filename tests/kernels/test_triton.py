"""The Triton kernels compute what the formulas say, under Triton's interpreter on the CPU. Their speed is not run here.

The small shapes are what the interpreter can do in seconds. On a machine with a GPU the same tests run compiled.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

for package in ("torch", "triton"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"not run: {package} is not installed (pip install torch triton==3.9.0)", allow_module_level=True)

import torch  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Read when a kernel is defined: before the imports below.

from kernels.chain.plan import Predictor as Numbers  # noqa: E402
from kernels.chain.reference import predict  # noqa: E402
from kernels.errors import ShapeError  # noqa: E402
from kernels.gate import reference as gate_formula  # noqa: E402
from kernels.gate import triton as gate  # noqa: E402
from kernels.masked_conv.cpu import ConvShape, Pooling  # noqa: E402
from kernels.masked_conv.layout import GROUP, groups_of, pack_image, unpack_image  # noqa: E402
from kernels.masked_conv.reference import masked_conv  # noqa: E402
from kernels.masked_conv.triton import MaskedConv, list_active, union  # noqa: E402
from kernels.predictor.triton import Predictor  # noqa: E402
from nodes.worker.text.sampling import probabilities  # noqa: E402
from tests.kernels.golden_gate import golden  # noqa: E402

TOLERANCE = 1e-4
# inputs, outputs, height, width: odd, tiny, and more than one tile of pixels.
SIZES = [(16, 16, 1, 1), (3, 32, 5, 7), (40, 48, 3, 4), (32, 16, 9, 11)]


def on(array: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def host(array: Any) -> Any:
    return array.cpu().numpy()


def problem(inputs: int, outputs: int, side: int, images: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    chance = np.random.default_rng(inputs + outputs + side)
    samples, height, width = images
    return (
        chance.standard_normal((samples, inputs, height, width)).astype(np.float32),
        chance.standard_normal((outputs, inputs, side, side)).astype(np.float32),
        chance.standard_normal(outputs).astype(np.float32),
    )


def packed(images: Any) -> Any:
    return on(np.stack([pack_image(image) for image in images]))


def expected_of(images: Any, weights: Any, bias: Any, masks: tuple[Any, Any], **how: Any) -> list[Any]:
    """The formula for each sample under its row of the masks."""
    mask_in, mask_out = (np.repeat(mask, len(images) // len(mask), axis=0) for mask in masks)
    found = []
    for image, wanted_in, wanted_out in zip(images, mask_in, mask_out, strict=True):
        active = np.flatnonzero(np.repeat(wanted_in, GROUP)[: len(image)]).astype(np.int32)
        groups = np.flatnonzero(wanted_out).astype(np.int32)
        found.append(masked_conv(image, weights, bias, active_in=active, active_groups=groups, **how))
    return found


def masks_of(kind: str, rows: int, in_groups: int, out_groups: int) -> tuple[Any, Any]:
    chance = np.random.default_rng(rows)
    ins, outs = np.ones((rows, in_groups), np.uint8), np.ones((rows, out_groups), np.uint8)
    if kind == "some":
        return chance.integers(0, 2, ins.shape, dtype=np.uint8), chance.integers(0, 2, outs.shape, dtype=np.uint8)
    return (ins * 0 if kind == "no inputs" else ins), (outs * 0 if kind == "no outputs" else outs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_a_convolution_equals_the_formula(size: tuple[int, int, int, int], side: int, stride: int) -> None:
    inputs, outputs, height, width = size
    images, weights, bias = problem(inputs, outputs, side, (2, height, width))
    for kind in ("some", "full", "no inputs", "no outputs"):
        relu = kind != "full"
        masks = masks_of(kind, 2, groups_of(inputs), groups_of(outputs))
        conv = MaskedConv(weights, bias, ConvShape(height, width, stride, relu), device=DEVICE)
        output = conv.output(2)
        conv(packed(images), on(masks[0]), on(masks[1]), output)
        for found, expected in zip(
            host(output), expected_of(images, weights, bias, masks, stride=stride, relu=relu), strict=True
        ):
            worst = np.abs(unpack_image(found, outputs) - expected).max()
            assert worst <= TOLERANCE * max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_neighbours_of_a_batch_share_a_row_of_masks(rows: int) -> None:
    images, weights, bias = problem(48, 64, 3, (4, 5, 5))
    masks = masks_of("some", rows, 3, 4)
    conv = MaskedConv(weights, bias, ConvShape(5, 5), device=DEVICE)
    output = conv.output(4)
    conv(packed(images), on(masks[0]), on(masks[1]), output)
    for found, expected in zip(host(output), expected_of(images, weights, bias, masks), strict=True):
        np.testing.assert_allclose(unpack_image(found, 64), expected, atol=TOLERANCE * np.abs(expected).max())


def test_what_is_pruned_is_neither_read_nor_written() -> None:
    images, weights, bias = problem(48, 64, 3, (1, 4, 4))
    image = packed(images)
    image[:, 1] = float("nan")
    conv = MaskedConv(weights, bias, ConvShape(4, 4, relu=False), device=DEVICE)
    output = conv.output(1)
    output[...] = 7.0
    conv(image, on(np.array([[1, 0, 1]], np.uint8)), on(np.array([[0, 1, 0, 1]], np.uint8)), output)
    assert bool(torch.isfinite(output).all())
    assert bool((output[:, [0, 2]] == 7.0).all())
    # The control: where the mask lets it in, what is not a number arrives.
    conv(image, on(np.ones((1, 3), np.uint8)), on(np.ones((1, 4), np.uint8)), output)
    assert bool(torch.isnan(output).any())


def test_lists_and_unions_of_masks() -> None:
    mask = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], np.uint8)
    listed, counts = list_active(on(mask))
    assert host(counts).tolist() == [3, 0, 5, 1]
    assert host(listed)[0, :3].tolist() == [1, 3, 4]
    np.testing.assert_array_equal(host(union(on(mask), 2)), [[0, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(ShapeError, match="cannot share"):
        union(on(mask), 3)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize(("channels", "groups", "height"), [(16, 1, 1), (48, 5, 9), (32, 4, 3)])
def test_a_predictor_equals_the_formula(rank: int | None, channels: int, groups: int, height: int) -> None:
    chance = np.random.default_rng(channels)
    middle = channels if rank is None else rank
    numbers = Numbers(
        chance.standard_normal((groups, middle)).astype(np.float32),
        chance.standard_normal(groups).astype(np.float32),
        None if rank is None else chance.standard_normal((rank, channels)).astype(np.float32),
    )
    images = np.maximum(chance.standard_normal((6, channels, height, 7)), 0).astype(np.float32)
    mask_in = chance.integers(0, 2, (6, channels // GROUP), dtype=np.uint8)
    images *= np.repeat(mask_in, GROUP, axis=1)[:, :, None, None]
    image = packed(images)
    image[on(mask_in) == 0] = float("nan")
    found, logits = Predictor(numbers, device=DEVICE)(image, on(mask_in))
    for n, picture in enumerate(images):
        peak = picture.max(axis=(1, 2)).astype(np.float64)
        np.testing.assert_array_equal(host(found)[n] > 0, predict(numbers, peak))
        share = np.exp(peak - peak.max()) / np.exp(peak - peak.max()).sum() * channels
        inner = share if numbers.down_ri is None else numbers.down_ri @ share
        np.testing.assert_allclose(host(logits)[n], numbers.up_gr @ inner + numbers.offset_g, atol=TOLERANCE)


def test_a_pruned_layer_from_predictor_to_convolution() -> None:
    images, weights, bias = problem(32, 48, 3, (3, 6, 6))
    images = np.maximum(images, 0)
    chance = np.random.default_rng(5)
    numbers = Numbers(chance.standard_normal((3, 32)).astype(np.float32), np.zeros(3, np.float32))
    image, mask_in = packed(images), np.ones((3, 2), np.uint8)
    mask_out, _ = Predictor(numbers, device=DEVICE)(image, on(mask_in))
    conv = MaskedConv(weights, bias, ConvShape(6, 6), device=DEVICE)
    output = conv.output(3)
    conv(image, on(mask_in), mask_out, output)
    wanted = np.stack([predict(numbers, picture.max(axis=(1, 2)).astype(np.float64)) for picture in images])
    assert wanted.any(axis=1).all()
    assert not wanted.all()
    for found, expected in zip(host(output), expected_of(images, weights, bias, (mask_in, wanted)), strict=True):
        np.testing.assert_allclose(unpack_image(found, 48), expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (5, 2), (8, 8), (13, 3)])
def test_weights_of_the_best_experts(experts: int, k: int) -> None:
    scores = np.random.default_rng(experts).standard_normal((7, experts)).astype(np.float32)
    scores[0] = 1.0  # Equal scores: the first k.
    scores[1, : experts // 2] = -np.inf
    found = host(gate.top_weights(on(scores), k))
    np.testing.assert_allclose(found, gate_formula.top_weights(scores, k), atol=1e-6)
    assert found[0].nonzero()[0].tolist() == list(range(k))
    with pytest.raises(ShapeError, match="experts can be taken"):
        gate.top_weights(on(scores), experts + 1)


def test_the_gate_gives_the_golden_vectors() -> None:
    for one in golden():
        weights = gate.top_weights(on(one.score_e[None].astype(np.float32)), one.k)
        np.testing.assert_allclose(host(weights)[0], one.weight_e, atol=1e-6)
        found = host(gate.mixed(on(one.logit_ev[None].astype(np.float32)), weights))[0]
        np.testing.assert_allclose(found, one.mixed_v, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_average_is_the_one_that_texts_are_written_from() -> None:
    chance = np.random.default_rng(1)
    logits = (5 * chance.standard_normal((3, 4, 1500))).astype(np.float32)
    weights = host(gate.top_weights(on(chance.standard_normal((3, 4)).astype(np.float32)), 2))
    found = host(gate.mixed(on(logits), on(weights)))
    np.testing.assert_allclose(found, gate_formula.mixed(logits, weights), atol=TOLERANCE)
    for n in range(3):
        written = sum(weights[n, e] * probabilities(logits[n, e]) for e in range(4))
        np.testing.assert_allclose(np.exp(found[n]), written, atol=1e-6)


def test_arrays_that_do_not_fit_are_refused() -> None:
    images, weights, bias = problem(32, 32, 3, (3, 4, 4))
    conv = MaskedConv(weights, bias, ConvShape(4, 4), device=DEVICE)
    ones, image = on(np.ones((3, 2), np.uint8)), packed(images)
    with pytest.raises(ShapeError, match="shared evenly"):
        conv(image, ones[:2], ones[:2], conv.output(3))
    with pytest.raises(ShapeError, match="contiguous"):
        conv(image, ones.float(), ones, conv.output(3))
    with pytest.raises(ShapeError, match="contiguous"):
        conv(image[:, :1], ones, ones, conv.output(3))
    with pytest.raises(ShapeError, match="pools nothing"):
        MaskedConv(weights, bias, ConvShape(4, 4, pooling=Pooling.MAX), device=DEVICE)


@pytest.mark.skipif(DEVICE == "cuda", reason="not run: there is a GPU")
def test_without_a_gpu_and_without_the_interpreter_a_named_kernel_raises() -> None:
    """There is no quieter, slower path that takes over."""
    code = (
        "import numpy as np\n"
        "from kernels.errors import KernelMissing\n"
        "from kernels.masked_conv.cpu import ConvShape\n"
        "from kernels.masked_conv.triton import MaskedConv\n"
        "try: MaskedConv(np.ones((16, 1, 3, 3), np.float32), np.ones(16, np.float32), ConvShape(4, 4))\n"
        "except KernelMissing as error: print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "no GPU" in done.stdout, done.stderr


@pytest.mark.skipif(DEVICE == "cuda", reason="not run: there is a GPU, and the benchmark would take minutes")
@pytest.mark.parametrize("interpret", ["0", "1"])
def test_the_benchmark_measures_no_interpreter(interpret: str) -> None:
    command = [sys.executable, "-m", "tests.bench.bench_masked_conv", "--device", "cuda", "--no-record"]
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 77
    assert done.stdout.startswith("not run: no GPU")
