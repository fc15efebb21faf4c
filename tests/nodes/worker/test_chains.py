"""Pruned chains through the real engine process: answers, refusals, and what the file may not be."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kernels.errors import KernelError
from kernels.native.library import available
from nodes.arms import ArmSpec
from nodes.engines.contract import Job
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import EngineError, InputInvalid
from nodes.inventory import load_inventory, runnable
from nodes.worker.chains import ChainModel, chain_arrays, parse_chain
from nodes.zoo.arrays import write_arrays
from nodes.zoo.catalog import load_catalog
from tests.kernels.chains import random_chain

pytestmark = pytest.mark.skipif(not available(), reason="not run: no compiled library")
NAME = "digits-gated-m80"


@pytest.fixture
def arm() -> ArmSpec:
    (found,) = load_inventory(None, [NAME]).arms
    return found


@pytest.fixture
async def engine() -> AsyncIterator[OnnxEngine]:
    made = OnnxEngine(WorkerCommand(Path(sys.executable), slots=1))
    yield made
    await made.close()


async def test_a_pruned_expert_answers_through_the_engine(engine: OnnxEngine, arm: ArmSpec) -> None:
    await engine.load([arm])
    catalog = load_catalog()
    images = catalog.held_out.inputs[:60]
    result = await engine.infer(Job(arm.key, {"image": images}))
    probabilities = result.outputs["probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == catalog.held_out.labels_n[:60]).mean() > 0.9
    one = await engine.infer(Job(arm.key, {"image": images[:1]}))
    np.testing.assert_array_equal(one.outputs["probabilities"], probabilities[:1])
    with pytest.raises(InputInvalid):
        await engine.infer(Job(arm.key, {"image": images[:, :4]}))


async def test_another_file_than_announced_is_refused(engine: OnnxEngine, arm: ArmSpec) -> None:
    with pytest.raises(EngineError, match="digest"):
        await engine.load([dataclasses.replace(arm, model_digest="0" * 64)])


async def test_a_file_that_is_no_chain_is_refused(engine: OnnxEngine, arm: ArmSpec, tmp_path: Path) -> None:
    file = tmp_path / "other.npz"
    write_arrays(file, {"names": np.array(["image", "probabilities"])})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(EngineError, match="not a chain"):
        await engine.load([dataclasses.replace(arm, model_file=file, model_digest=digest)])


def test_masks_depend_on_the_image(arm: ArmSpec) -> None:
    assert arm.model_file is not None
    model = ChainModel(arm.model_file.read_bytes())
    masks = model.masks(load_catalog().held_out.inputs[:, None])
    assert len({mask.tobytes() for mask in masks}) > 5


def test_the_card_states_the_mean_of_what_its_masks_take(arm: ArmSpec) -> None:
    assert arm.model_file is not None
    model = ChainModel(arm.model_file.read_bytes())
    masks = model.masks(load_catalog().held_out.inputs[:, None]).astype(np.int64)
    second, third = 16 * masks[:, 1:5].sum(axis=1), 16 * masks[:, 5:].sum(axis=1)
    fixed = 64 * 9 * 16 + 16 * 4 + 64 * 4
    macs = fixed + 16 * 9 * 16 * second + 4 * 9 * second * third + 10 * third
    assert arm.macs == pytest.approx(macs.mean(), abs=0.5)


def test_plans_survive_the_file() -> None:
    plan = random_chain((16, "M", 32), inputs=3, side=8, rank=4)
    again = parse_chain(chain_arrays(plan, input_name="a", output_name="b"))
    assert again.groups == plan.groups
    for mine, theirs in zip(plan.steps, again.steps, strict=True):
        np.testing.assert_array_equal(mine.weights_oikk, theirs.weights_oikk)
        assert (mine.predictor is None) == (theirs.predictor is None)


def test_objects_in_a_file_are_never_built(tmp_path: Path) -> None:
    file = tmp_path / "evil.npz"
    np.savez(file, names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(KernelError, match="not a chain"):
        ChainModel(file.read_bytes())


def test_without_kernels_only_what_was_named_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.inventory.kernels_built", lambda: False)
    cards = runnable(load_catalog().experts)
    assert cards
    assert all(card.engine == "onnx" for card in cards)
    assert [arm.expert for arm in load_inventory(None, [NAME]).arms] == [NAME]
