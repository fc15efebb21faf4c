"""Fixed-k buckets: the graph that a GPU runtime can build gives what the kernels give under the same masks."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kernels.chain.cpu import Chain
from kernels.chain.plan import ChainPlan
from kernels.chain.reference import softmax
from kernels.masked_conv.layout import GROUP
from kernels.masked_conv.reference import masked_conv
from kernels.native.library import available
from nodes.errors import ConfigError
from nodes.pruning.buckets import SHARES, bucket, groups_kept
from tests.kernels.chains import random_chain, random_residual, random_separable

PLAN = (32, 64, "M", 128, "M", 64)


def best_masks(plan: ChainPlan, image_chw: np.ndarray, share: float) -> list[np.ndarray]:
    """The best groups of every step, found with formulas."""
    active, image = np.arange(plan.inputs, dtype=np.int32), image_chw.astype(np.float64)
    found, shortcut = [], image
    for step, kept in zip(plan.steps, groups_kept(plan, share), strict=True):
        mask = np.ones(step.groups, dtype=bool)
        if step.predictor is not None:
            share_c = softmax(image.max(axis=(1, 2))) * len(image)
            down = step.predictor.down_ri
            logits = step.predictor.up_gr @ (share_c if down is None else down @ share_c) + step.predictor.offset_g
            mask[:] = False
            mask[np.argsort(-logits, kind="stable")[:kept]] = True
        groups = np.flatnonzero(mask).astype(np.int32)
        shortcut = image if step.keep else shortcut
        weights, bias = step.weights_oikk, step.bias_o
        image = masked_conv(image, weights, bias, active_in=active, active_groups=groups, stride=step.stride)
        if step.halve:
            channels, side = image.shape[:2]
            image = image.reshape(channels, side // 2, 2, side // 2, 2).max(axis=(2, 4))
        active = (groups[:, None] * GROUP + np.arange(GROUP)).ravel().astype(np.int32)
        if step.add:
            image[: len(shortcut)] += shortcut[:, :: step.add, :: step.add]
            active = np.arange(len(image), dtype=np.int32)
        found.append(mask)
    return found


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    "plan",
    [
        random_chain(PLAN, inputs=3, side=12),
        random_chain(PLAN, inputs=3, side=12, rank=6),
        random_residual((32, 64), inputs=3, side=12),
    ],
    ids=["chain", "low-rank", "residual"],
)
def test_a_bucket_gives_what_the_kernels_give(share: float, plan: ChainPlan) -> None:
    session = onnxruntime.InferenceSession(bucket(plan, share), providers=["CPUExecutionProvider"])
    chain = Chain(plan)
    seen = set()
    for image in np.random.default_rng(0).standard_normal((8, 3, 12, 12)).astype(np.float32):
        masks = np.concatenate(best_masks(plan, image, share)).astype(np.uint8)
        expected = chain(image[None], masks_ng=masks[None])[0]
        (found,) = session.run(None, {"image": image[None]})
        np.testing.assert_allclose(found, expected, atol=1e-4)
        seen.add(masks.tobytes())
    assert len(seen) > 1, "the masks must depend on the image for this to test anything"


def test_buckets_differ_in_work() -> None:
    plan = random_chain(PLAN, inputs=3, side=12)
    assert [groups_kept(plan, share) for share in SHARES] == [(2, 1, 2, 1), (2, 2, 4, 2), (2, 3, 6, 3)]


def test_what_has_no_buckets_is_refused() -> None:
    with pytest.raises(ConfigError, match="mobilenet"):
        bucket(random_separable(((32, 1),), inputs=3, side=8), 0.5)
