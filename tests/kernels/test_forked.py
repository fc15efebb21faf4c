"""A forked classifier answers as the formulas do: both sets of layers, the gate between, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels.errors import ShapeError
from kernels.forked.cpu import Fork
from kernels.forked.plan import ForkPlan, Gate, Layer
from kernels.forked.reference import apply, classify, enlarged, score
from kernels.masked_conv.layout import Floats
from kernels.native.library import Isa, available, runs
from tests.kernels.threads import assert_undisturbed

pytestmark = pytest.mark.skipif(not available(), reason="not run: no compiled library")
SETS = [
    pytest.param(isa, marks=pytest.mark.skipif(not runs(isa), reason=f"not run: no {isa.name} here")) for isa in Isa
]
RNG = np.random.default_rng(5)


def layer(*shape: int, padding: int = 0, stride: int = 1, pool: int = 1, averaged: bool = False) -> Layer:
    weights = RNG.normal(0.0, 1.4 * float(np.prod(shape[1:])) ** -0.5, shape).astype(np.float32)
    bias_o = RNG.normal(0.0, 0.2, shape[0]).astype(np.float32)
    return Layer(weights, bias_o, padding, stride, pool, averaged)


def again(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same layers with other weights."""
    return tuple(
        replace(one, weights=RNG.permuted(one.weights, axis=0), bias_o=RNG.permuted(one.bias_o)) for one in layers
    )


def pictures(count: int, channels: int, side: int) -> Floats:
    return RNG.random((count, channels, side, side), dtype=np.float32)


def gated(side: int, *layers: Layer, upsample: int = 1, cells: int = 2) -> ForkPlan:
    """With a gate that sends half of the pictures one way and half the other."""
    first = layers[0]
    gate = Gate(
        cells,
        RNG.normal(0.0, 1.0, (len(first.bias_o) * (cells**2 + 1), 5)).astype(np.float32),
        RNG.normal(0.0, 0.1, 5).astype(np.float32),
        RNG.normal(0.0, 1.0, 5).astype(np.float32),
        0.0,
    )
    images = pictures(60, first.weights.shape[1], side)
    stems = [apply(first, enlarged(image.astype(np.float64), upsample), last=False) for image in images]
    middle = float(np.median([score(gate, stem) for stem in stems]))
    return ForkPlan(side, layers, again(layers[1:]), replace(gate, threshold=-middle), upsample)


LENET = gated(
    28, layer(6, 1, 5, 5, padding=2, pool=2), layer(16, 6, 5, 5, pool=2), layer(120, 400), layer(84, 120), layer(10, 84)
)
PLANS = {
    "lenet": LENET,
    "odd sides and kernels": gated(
        13, layer(5, 3, 3, 3, pool=2), layer(33, 5, 2, 2, padding=3, stride=2), layer(7, 33 * 25), cells=3
    ),
    "pooled by three, a rest dropped": gated(
        17, layer(18, 1, 4, 4, padding=1, pool=3), layer(40, 18, 1, 1), layer(3, 1000)
    ),
    "averaged": gated(9, layer(8, 3, 3, 3, padding=1), layer(70, 8, 3, 3, padding=1, averaged=True), layer(11, 70)),
    "enlarged": gated(
        8, layer(6, 1, 5, 5, padding=2, pool=2), layer(16, 6, 5, 5, pool=2), layer(10, 576), upsample=4, cells=2
    ),
}


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", PLANS)
def test_answers_as_the_formulas_do(isa: Isa, name: str) -> None:
    plan = PLANS[name]
    images = pictures(24, plan.channels, plan.side)
    found, local_n = Fork(plan, isa=isa)(images)
    expected = [classify(plan, image) for image in images]
    np.testing.assert_array_equal(local_n, [local for _, local in expected])
    np.testing.assert_allclose(found, np.array([probabilities for probabilities, _ in expected]), atol=1e-5)
    assert 4 <= local_n.sum() <= 20, "both ways must be taken for this to test anything"


@pytest.mark.parametrize("isa", SETS)
def test_without_a_gate_the_first_set_answers(isa: Isa) -> None:
    plan = ForkPlan(LENET.side, LENET.layers)
    images = pictures(8, 1, 28)
    found, local_n = Fork(plan, isa=isa)(images)
    np.testing.assert_allclose(found, [classify(plan, image)[0] for image in images], atol=1e-5)
    assert not local_n.any()
    # The control: with the gate some of them are answered by the other set.
    assert np.abs(Fork(LENET, isa=isa)(images)[0] - found).max() > 0.01


def test_threads_do_not_disturb_each_other() -> None:
    assert_undisturbed(Fork(LENET), pictures(40, 1, 28))


def test_what_does_not_fit_is_refused() -> None:
    first, second, *rest = LENET.layers
    assert LENET.gate is not None
    with pytest.raises(ShapeError, match="images"):
        Fork(LENET)(pictures(1, 1, 27))
    with pytest.raises(ShapeError, match="layer 2"):
        ForkPlan(27, LENET.layers)
    with pytest.raises(ShapeError, match="too small"):
        ForkPlan(1, (layer(6, 1, 5, 5), layer(10, 6)))
    with pytest.raises(ShapeError, match="first"):
        ForkPlan(28, (second, *rest)[1:])
    with pytest.raises(ShapeError, match="same shapes"):
        ForkPlan(28, LENET.layers, (layer(16, 6, 3, 3), *LENET.others[1:]), LENET.gate)
    with pytest.raises(ShapeError, match="needs a gate"):
        ForkPlan(28, LENET.layers, LENET.others)
    with pytest.raises(ShapeError, match="the gate must map 30 numbers"):
        ForkPlan(28, LENET.layers, LENET.others, replace(LENET.gate, first_sh=np.zeros((29, 5), np.float32)))
    with pytest.raises(ShapeError, match="linear layer"):
        ForkPlan(28, (first, second, replace(rest[0], pool=2), *rest[1:]))
