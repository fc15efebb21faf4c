"""Three fixed-k buckets of a pruned expert as TensorRT-RTX engines, built ahead of time; none was run on a GPU by us.

What can be run is checked here without one: the graphs that are built select what ONNX Runtime and the kernels select.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest

from kernels.chain.cpu import Chain
from kernels.native.library import available
from nodes.inventory import load_inventory
from nodes.pruning.buckets import SHARES, bucket, groups_kept
from nodes.worker.chains import parse_chain
from nodes.worker.tensorrt.building import EngineOrder, build_engine
from nodes.zoo.arrays import read_arrays
from nodes.zoo.catalog import load_catalog
from tests.kernels.chains import random_residual
from tests.nodes.pruning.test_buckets import best_masks

REAL = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: the module tensorrt_rtx is not installed"
)
EXPERT = "digits-gated-m60"


@pytest.fixture(scope="module")
def buckets() -> dict[float, bytes]:
    """The shipped pruned expert's three graphs."""
    (arm,) = load_inventory(None, (EXPERT,)).arms
    assert arm.model_file is not None
    plan = parse_chain(read_arrays(arm.model_file))
    return {share: bucket(plan, share) for share in SHARES}


@REAL
def test_rtx_builds_the_three_buckets_of_a_shipped_expert(buckets: dict[float, bytes]) -> None:
    sizes = {}
    for share, graph in buckets.items():
        steps: list[str] = []
        engine = build_engine(graph, EngineOrder("rtx", (1, 1, 1), "8.9"), steps.append)
        sizes[share] = len(engine)
        assert steps[:2] == ["parse", "build"]
    assert all(size > 10_000 for size in sizes.values())
    assert len(set(sizes.values())) == len(SHARES), "three engines, not one three times"


@REAL
def test_rtx_builds_a_bucket_of_a_residual_network() -> None:
    graph = bucket(random_residual((32, 64), inputs=3, side=16), 0.5)
    assert len(build_engine(graph, EngineOrder("rtx", (1, 1, 1), "8.9"), lambda _: None)) > 10_000


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
@pytest.mark.parametrize("share", SHARES)
def test_the_graphs_that_are_built_select_and_answer_as_the_pruned_expert_does(
    buckets: dict[float, bytes], share: float
) -> None:
    (arm,) = load_inventory(None, (EXPERT,)).arms
    assert arm.model_file is not None
    plan = parse_chain(read_arrays(arm.model_file))
    session = onnxruntime.InferenceSession(buckets[share], providers=["CPUExecutionProvider"])
    chain, kept = Chain(plan), groups_kept(plan, share)
    for image in load_catalog().held_out.inputs[:12, None]:
        masks = best_masks(plan, image, share)
        assert [int(mask.sum()) for mask in masks] == list(kept)
        expected = chain(image[None], masks_ng=np.concatenate(masks).astype(np.uint8)[None])[0]
        np.testing.assert_allclose(session.run(None, {"image": image[None]})[0], expected, atol=1e-4)


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_a_bucket_of_the_shipped_expert_is_as_good_as_its_share_allows(buckets: dict[float, bytes]) -> None:
    held_out = load_catalog().held_out
    right = {}
    for share, graph in buckets.items():
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        answers = [int(session.run(None, {"image": image[None, None]})[0].argmax()) for image in held_out.inputs[:100]]
        right[share] = float((np.array(answers) == held_out.labels_n[:100]).mean())
    assert right[0.75] > 0.9
    assert right[0.75] >= right[0.25]
