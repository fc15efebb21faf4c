"""The depthwise convolution against its formula: odd sizes, silent channels, and nothing masked is read or written."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.depthwise.cpu import depthwise, packed
from kernels.depthwise.reference import depthwise as formula
from kernels.errors import KernelMissing, ShapeError
from kernels.masked_conv.layout import GROUP, aligned, groups_of, pack_image, unpack_image
from kernels.native.library import Isa, available, runs

pytestmark = pytest.mark.skipif(not available(), reason="not run: no compiled library")
SETS = [
    pytest.param(isa, marks=pytest.mark.skipif(not runs(isa), reason=f"not run: no {isa.name} here")) for isa in Isa
]
# Channels, height, width: whole groups and not, sides of one and two pixels, longer than wide.
SIZES = [(16, 8, 8), (48, 7, 5), (20, 9, 13), (64, 4, 4), (32, 2, 2), (16, 1, 1), (33, 3, 31), (16, 5, 1), (80, 32, 32)]


def drawn(channels: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image whose every third channel is silent, weights, and offsets that would revive it."""
    chance = np.random.default_rng(channels + height)
    image = chance.standard_normal((channels, height, width)).astype(np.float32)
    image[::3] = -np.abs(image[::3])
    weights = chance.standard_normal((channels, 3, 3)).astype(np.float32)
    return image, weights, chance.standard_normal(channels).astype(np.float32)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_filters_as_the_formula_does(isa: Isa, stride: int, size: tuple[int, int, int], share: float) -> None:
    image, weights, bias = drawn(*size)
    layer = packed(weights, bias, size[1:], stride=stride)
    groups = np.flatnonzero(np.random.default_rng(2).random(groups_of(size[0])) < share).astype(np.int32)
    given = pack_image(image)
    absent = np.setdiff1d(np.arange(len(given)), groups)
    given[absent] = np.nan  # Whoever reads what is not there will show it.
    output = aligned(len(given), layer.fields.out_height, layer.fields.out_width, GROUP)
    output[:] = -7.0
    pooled = depthwise(layer, given, groups, output, isa=isa)
    expected = pack_image(formula(image, weights, bias, stride=stride).astype(np.float32))
    np.testing.assert_allclose(output[groups], expected[groups], atol=1e-4 * max(1.0, float(expected.max())))
    np.testing.assert_array_equal(output[absent], -7.0)
    np.testing.assert_array_equal(pooled.reshape(-1, GROUP)[groups], output[groups].max(axis=(1, 2)))


def test_a_silent_channel_is_not_revived_by_its_offset() -> None:
    image, weights, bias = drawn(16, 6, 6)
    bias[:] = 1.0
    layer = packed(weights, bias, (6, 6))
    output = aligned(1, 6, 6, GROUP)
    depthwise(layer, pack_image(image), np.array([0], np.int32), output)
    found = unpack_image(output, 16)
    assert not found[::3].any()
    # The control: a single value above zero, and the offset counts.
    image[0, 0, 0] = 1e-6
    depthwise(layer, pack_image(image), np.array([0], np.int32), output)
    assert unpack_image(output, 16)[0].any()


def test_what_does_not_fit_is_refused() -> None:
    image, weights, bias = drawn(16, 6, 6)
    with pytest.raises(ShapeError, match="depthwise weights"):
        packed(weights[:, :2], bias, (6, 6))
    with pytest.raises(ShapeError, match="stride"):
        packed(weights, bias, (6, 6), stride=3)
    layer, output = packed(weights, bias, (6, 6)), aligned(1, 6, 6, GROUP)
    with pytest.raises(ShapeError, match="outside"):
        depthwise(layer, pack_image(image), np.array([1], np.int32), output)
    with pytest.raises(ShapeError, match="int32"):
        depthwise(layer, pack_image(image), np.array([0]), output)
    with pytest.raises(ShapeError, match="contiguous float32"):
        depthwise(layer, pack_image(image)[:, :5], np.array([0], np.int32), output)
    absent = next(isa for isa in Isa if not runs(isa))
    with pytest.raises(KernelMissing, match=absent.name):
        depthwise(layer, pack_image(image), np.array([0], np.int32), output, isa=absent)
