"""Every instruction set computes what the formula says, under every kind of mask and at odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.errors import ShapeError
from kernels.masked_conv.cpu import ConvShape, MaskedConv, Pooling
from kernels.masked_conv.layout import GROUP, Floats, groups_of, pack_image, pack_weights, unpack_image
from kernels.masked_conv.reference import masked_conv
from kernels.native.library import Isa, available, runs

pytestmark = pytest.mark.skipif(not available(), reason="not run: no compiled library")
TOLERANCE = 1e-4
SETS = [
    pytest.param(isa, marks=pytest.mark.skipif(not runs(isa), reason=f"not run: no {isa.name} here")) for isa in Isa
]
# inputs, outputs, height, width: odd, tiny, wide and narrow ones.
SIZES = [
    (1, 16, 1, 1),
    (3, 16, 8, 8),
    (20, 40, 7, 5),
    (33, 80, 9, 13),
    (64, 64, 4, 4),
    (48, 112, 2, 2),
    (17, 32, 3, 31),
]
SIZES += [(16, 48, 1, 4), (16, 96, 5, 1), (32, 64, 6, 3)]


def problem(seed: int, inputs: int, outputs: int, *image: int, side: int = 3) -> tuple[Floats, Floats, Floats]:
    chance = np.random.default_rng(seed)
    weights = chance.standard_normal((outputs, inputs, side, side)).astype(np.float32)
    return (
        chance.standard_normal((inputs, *image)).astype(np.float32),
        weights,
        chance.standard_normal(outputs).astype(np.float32),
    )


def masks(seed: int, inputs: int, outputs: int, kind: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    chance = np.random.default_rng(seed)
    groups = groups_of(outputs)
    if kind == "full":
        return np.arange(inputs, dtype=np.int32), np.arange(groups, dtype=np.int32)
    if kind == "no inputs":
        return np.zeros(0, np.int32), np.arange(groups, dtype=np.int32)
    if kind == "no outputs":
        return np.arange(inputs, dtype=np.int32), np.zeros(0, np.int32)
    some_in = chance.permutation(inputs)[: max(inputs // 2, 1)]
    return some_in.astype(np.int32), chance.permutation(groups)[: max(groups // 2, 1)].astype(np.int32)


def difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_equals_the_formula(isa: Isa, size: tuple[int, int, int, int], side: int, stride: int) -> None:
    inputs, outputs, height, width = size
    image, weights, bias = problem(sum(size), inputs, outputs, height, width, side=side)
    for kind in ("some", "full", "no inputs", "no outputs"):
        active_in, groups = masks(side, inputs, outputs, kind)
        relu = kind != "full"
        conv = MaskedConv(weights, bias, ConvShape(height, width, stride, relu, Pooling.MAX), isa=isa)
        output = conv.output()
        conv(pack_image(image), active_in, groups, output)
        expected = masked_conv(
            image, weights, bias, active_in=active_in, active_groups=groups, stride=stride, relu=relu
        )
        found = unpack_image(output, outputs)
        assert difference(found, expected) <= TOLERANCE
        peak = expected.max(axis=(1, 2))
        active = np.isin(np.arange(outputs) // GROUP, groups)
        assert difference(conv.pooled[:outputs][active], peak[active]) <= TOLERANCE if active.any() else True


@pytest.mark.parametrize("isa", SETS)
def test_means_of_channels(isa: Isa) -> None:
    image, weights, bias = problem(1, 24, 48, 10, 11)
    conv = MaskedConv(weights, bias, ConvShape(10, 11, pooling=Pooling.MEAN), isa=isa)
    active_in, groups = masks(2, 24, 48, "some")
    output = conv.output()
    conv(pack_image(image), active_in, groups, output)
    expected = masked_conv(image, weights, bias, active_in=active_in, active_groups=groups).mean(axis=(1, 2))
    active = np.isin(np.arange(48) // GROUP, groups)
    assert difference(conv.pooled[active], expected[active]) <= TOLERANCE


@pytest.mark.parametrize("isa", SETS)
def test_what_is_not_active_is_neither_read_nor_written(isa: Isa) -> None:
    image, weights, bias = problem(3, 32, 64, 6, 6)
    conv = MaskedConv(weights, bias, ConvShape(6, 6), isa=isa)
    packed = pack_image(image)
    active_in = np.arange(0, 32, 2, dtype=np.int32)
    packed[..., 1::2] = np.nan
    output = conv.output()
    output[...] = 7.0
    conv(packed, active_in, np.array([1, 3], np.int32), output)
    assert np.isfinite(output).all()
    assert (output[[0, 2]] == 7.0).all()


def test_packing_loses_nothing() -> None:
    image, weights, _ = problem(4, 20, 40, 5, 3)
    np.testing.assert_array_equal(unpack_image(pack_image(image), 20), image)
    packed = pack_weights(weights)
    assert packed.shape == (3, 20, 9, GROUP)
    np.testing.assert_array_equal(packed[1, 7, 5], weights[16:32, 7, 1, 2])
    assert not packed[2, :, :, 8:].any()


@pytest.mark.parametrize(
    ("active_in", "groups"),
    [
        (np.array([32], np.int32), np.array([0], np.int32)),
        (np.array([-1], np.int32), np.array([0], np.int32)),
        (np.array([0], np.int64), np.array([0], np.int32)),
        (np.array([0], np.int32), np.array([4], np.int32)),
    ],
)
def test_lists_that_point_outside_are_refused(active_in: NDArray[np.int32], groups: NDArray[np.int32]) -> None:
    image, weights, bias = problem(5, 32, 64, 4, 4)
    conv = MaskedConv(weights, bias, ConvShape(4, 4), isa=Isa.PLAIN)
    with pytest.raises(ShapeError):
        conv(pack_image(image), active_in, groups, conv.output())


def test_arrays_that_do_not_fit_are_refused() -> None:
    image, weights, bias = problem(6, 32, 64, 4, 4)
    conv = MaskedConv(weights, bias, ConvShape(4, 4), isa=Isa.PLAIN)
    everything = np.arange(32, dtype=np.int32), np.arange(4, dtype=np.int32)
    with pytest.raises(ShapeError, match="contiguous"):
        conv(pack_image(image[:, :2]), *everything, conv.output())
    with pytest.raises(ShapeError, match="1x1 or 3x3"):
        pack_weights(np.ones((16, 1, 5, 5), np.float32))
    with pytest.raises(ShapeError, match="stride"):
        MaskedConv(weights, bias, ConvShape(4, 4, stride=3), isa=Isa.PLAIN)
