"""Strangers' models are tried in a process that may do nothing else, and what it may not take ends only that."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nodes.arms import TaskSpec, TensorSpec
from nodes.artifacts.rehearsal import Cage, rehearse
from nodes.engines.staging import OutsideTensor, Staged
from nodes.errors import ArtifactRefused
from nodes.worker.lockdown import probe
from tests.fakes import hostile_onnx

TASK = TaskSpec(
    "digits", TensorSpec("image", "float32", (-1, 8, 8)), TensorSpec("probabilities", "float32", (-1, 10)), ("0",) * 10
)
INPUTS = {"image": np.ones((1, 8, 8), np.float32)}
CAGE = Cage(Path(sys.executable), memory_bytes=512 << 20, run_s=1.0)

pytestmark = pytest.mark.skipif(not probe().enough, reason="not run: this kernel cannot lock a process in")


def staged(model: bytes, data: bytes = b"") -> Staged:
    contents = {hashlib.sha256(content).hexdigest(): content for content in (model, data)}
    outside = (OutsideTensor("w", "float32", (64, 10), 0, 0),) if data else ()
    files = (hashlib.sha256(data).hexdigest(),) if data else ()
    return Staged(contents.__getitem__, hashlib.sha256(model).hexdigest(), files, outside)


async def reason(model: bytes, cage: Cage = CAGE) -> str:
    with pytest.raises(ArtifactRefused) as refused:
        await rehearse(cage, staged(model), TASK, INPUTS)
    return refused.value.reason


async def test_good_models_pass_also_with_weights_in_another_file() -> None:
    await rehearse(CAGE, staged(hostile_onnx.linear()), TASK, INPUTS)
    beside = staged(hostile_onnx.outside("w.bin"), hostile_onnx.WEIGHTS.tobytes())
    await rehearse(CAGE, beside, TASK, INPUTS)


async def test_memory_is_limited_and_control_with_more_of_it_the_same_model_passes() -> None:
    """256 MiB of zeros, of which the runtime makes several copies."""
    greedy = hostile_onnx.allocates(1 << 26)
    assert await reason(greedy, replace(CAGE, memory_bytes=128 << 20)) == "ARTIFACT_TOO_LARGE"
    await rehearse(replace(CAGE, memory_bytes=2 << 30, run_s=20.0), staged(greedy), TASK, INPUTS)


async def test_a_loop_is_ended_and_control_a_short_one_passes() -> None:
    assert await reason(hostile_onnx.loops(2**62)) == "ARTIFACT_TOO_LARGE"
    await rehearse(CAGE, staged(hostile_onnx.loops(100)), TASK, INPUTS)


async def test_processor_time_is_limited_where_the_watch_is_not_enough() -> None:
    slow = replace(CAGE, run_s=30.0, cpu_s=1)
    assert await reason(hostile_onnx.loops(2**62), slow) == "ARTIFACT_TOO_LARGE"


async def test_weights_outside_are_never_read_by_the_runtime_itself(tmp_path: Path) -> None:
    """Nothing is staged for the tensor, and the file that it names exists: a locked process cannot read it."""
    (tmp_path / "w.bin").write_bytes(hostile_onnx.WEIGHTS.tobytes())
    assert await reason(hostile_onnx.outside(str(tmp_path / "w.bin"))) == "ARTIFACT_INVALID"
