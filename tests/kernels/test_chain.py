"""A whole chain, predictors included, answers as the formulas do, whatever the masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels.chain.cpu import Chain
from kernels.chain.plan import ChainPlan, Depthwise, Step
from kernels.chain.reference import classify
from kernels.errors import ShapeError
from kernels.native.library import Isa, available, runs
from tests.kernels.chains import random_chain, random_residual, random_separable
from tests.kernels.threads import assert_undisturbed

pytestmark = pytest.mark.skipif(not available(), reason="not run: no compiled library")
SETS = [
    pytest.param(isa, marks=pytest.mark.skipif(not runs(isa), reason=f"not run: no {isa.name} here")) for isa in Isa
]
PLAN = (32, 48, "M", 64, "M", 32)


def pictures(count: int, channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, channels, side, side)).astype(np.float32)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("rank", [None, 5])
def test_answers_as_the_formulas_do(isa: Isa, rank: int | None) -> None:
    plan = random_chain(PLAN, inputs=3, side=12, rank=rank)
    images = pictures(12, 3, 12)
    found, used = Chain(plan, isa=isa)(images)
    for n, image in enumerate(images):
        expected, masks = classify(plan, image)
        np.testing.assert_array_equal(used[n], np.concatenate(masks))
        np.testing.assert_allclose(found[n], expected, atol=1e-5)
    assert len({mask.tobytes() for mask in used}) > 1, "the masks must depend on the image for this to test anything"


@pytest.mark.parametrize("isa", SETS)
def test_given_masks_are_used_instead(isa: Isa) -> None:
    plan = random_chain(PLAN, inputs=1, side=8)
    images = pictures(4, 1, 8)
    given = np.random.default_rng(1).integers(0, 2, (4, sum(plan.groups))).astype(np.uint8)
    found, used = Chain(plan, isa=isa)(images, masks_ng=given)
    np.testing.assert_array_equal(used, given)
    edges = np.cumsum(plan.groups)[:-1]
    for n, image in enumerate(images):
        masks = [part > 0 for part in np.split(given[n], edges)]
        np.testing.assert_allclose(found[n], classify(plan, image, masks=masks)[0], atol=1e-5)


def test_threads_do_not_disturb_each_other() -> None:
    assert_undisturbed(Chain(random_chain(PLAN, inputs=1, side=8)), pictures(40, 1, 8))


def test_what_does_not_fit_is_refused() -> None:
    plan = random_chain(PLAN, inputs=1, side=8)
    chain = Chain(plan)
    with pytest.raises(ShapeError, match="images"):
        chain(pictures(1, 2, 8))
    with pytest.raises(ShapeError, match="masks"):
        chain(pictures(1, 1, 8), masks_ng=np.ones((1, 3), np.uint8))
    with pytest.raises(ShapeError, match="head"):
        ChainPlan(plan.steps, plan.head_pc[:, :5], plan.head_bias_p, 8)
    with pytest.raises(ShapeError, match="halved"):
        ChainPlan(plan.steps, plan.head_pc, plan.head_bias_p, 7)
    with pytest.raises(ShapeError, match="step 0"):
        ChainPlan((Step(np.ones((8, 1, 3, 3), np.float32), np.ones(8, np.float32)),), plan.head_pc, plan.head_bias_p, 8)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("given", [False, True])
def test_residual_sums_are_dense_whatever_the_masks(isa: Isa, side: int, given: bool) -> None:
    plan = random_residual((32, 48), inputs=3, side=side)
    images = pictures(6, 3, side)
    masks = np.random.default_rng(4).integers(0, 2, (6, sum(plan.groups))).astype(np.uint8) if given else None
    found, used = Chain(plan, isa=isa)(images, masks_ng=masks)
    edges = np.cumsum(plan.groups)[:-1]
    for n, image in enumerate(images):
        expected, wanted = classify(plan, image, masks=None if masks is None else np.split(masks[n] > 0, edges))
        np.testing.assert_array_equal(used[n], np.concatenate(wanted))
        np.testing.assert_allclose(found[n], expected, atol=1e-5)
    assert not used.all()
    # The control: without the sums the answers are others.
    bare = ChainPlan(
        tuple(replace(step, add=0, keep=False) for step in plan.steps), plan.head_pc, plan.head_bias_p, side
    )
    assert np.abs(Chain(bare, isa=isa)(images, masks_ng=used)[0] - found).max() > 1e-3


def test_sums_that_cannot_be_made_are_refused() -> None:
    plan = random_residual((32, 48), inputs=3, side=8)

    def changed(index: int, **fields: Any) -> ChainPlan:
        steps = [replace(step, **fields) if at == index else step for at, step in enumerate(plan.steps)]
        return ChainPlan(tuple(steps), plan.head_pc, plan.head_bias_p, 8)

    with pytest.raises(ShapeError, match="itself"):
        changed(0, keep=True)
    with pytest.raises(ShapeError, match="must be remembered"):
        changed(1, keep=False)
    with pytest.raises(ShapeError, match="must be remembered"):
        changed(2, halve=True)
    with pytest.raises(ShapeError, match="cannot be added"):
        changed(2, add=2)


BLOCKS = ((32, 1), (64, 2), (48, 1), (96, 2))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("side", [12, 7, 2, 1])
@pytest.mark.parametrize("given", [False, True])
def test_channels_are_filtered_before_they_are_mixed(isa: Isa, side: int, given: bool) -> None:
    plan = random_separable(BLOCKS, inputs=3, side=side)
    images = pictures(6, 3, side)
    masks = np.random.default_rng(4).integers(0, 2, (6, sum(plan.groups))).astype(np.uint8) if given else None
    found, used = Chain(plan, isa=isa)(images, masks_ng=masks)
    edges = np.cumsum(plan.groups)[:-1]
    for n, image in enumerate(images):
        expected, wanted = classify(plan, image, masks=None if masks is None else np.split(masks[n] > 0, edges))
        np.testing.assert_array_equal(used[n], np.concatenate(wanted))
        np.testing.assert_allclose(found[n], expected, atol=1e-5)
    assert not used.all()
    if side > 1:  # The control: another filter, other answers.
        steps = tuple(replace(step, depthwise=turned(step)) for step in plan.steps)
        other = ChainPlan(steps, plan.head_pc, plan.head_bias_p, side)
        assert np.abs(Chain(other, isa=isa)(images, masks_ng=used)[0] - found).max() > 1e-3


def turned(step: Step) -> Depthwise | None:
    layer = step.depthwise
    return None if layer is None else replace(layer, weights_ikk=layer.weights_ikk.transpose(0, 2, 1))


def test_filters_that_do_not_fit_are_refused() -> None:
    plan = random_separable(BLOCKS, inputs=3, side=8)

    def changed(index: int, **fields: Any) -> ChainPlan:
        steps = [replace(step, **fields) if at == index else step for at, step in enumerate(plan.steps)]
        return ChainPlan(tuple(steps), plan.head_pc, plan.head_bias_p, 8)

    layer = plan.steps[1].depthwise
    assert layer is not None
    with pytest.raises(ShapeError, match="the image itself"):
        changed(0, depthwise=Depthwise(np.ones((3, 3, 3), np.float32), np.ones(3, np.float32)))
    with pytest.raises(ShapeError, match="what is remembered"):
        changed(1, keep=True)
    with pytest.raises(ShapeError, match="depthwise weights"):
        changed(1, depthwise=replace(layer, weights_ikk=layer.weights_ikk[:5]))
    with pytest.raises(ShapeError, match="stride 1 or 2"):
        changed(1, depthwise=replace(layer, stride=3))
