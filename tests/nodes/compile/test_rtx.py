"""Engines of the real TensorRT-RTX, whose builder needs no GPU. None was run on one by us."""

from __future__ import annotations

import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.errors import CompileError
from nodes.compile.forms import DEFAULT_BATCHES, Form, Precision, Runtime
from nodes.compile.pipeline import Bounds, Pipeline, Subject
from tests.nodes.compile.test_pipeline import digit_subject

pytest.importorskip("tensorrt_rtx", reason="not run: the module tensorrt_rtx is not installed")

PYTHON = Path(sys.executable)
FP32 = Form(Runtime.RTX, Precision.FP32, DEFAULT_BATCHES)


def built(tmp_path: Path, subject: Subject, wanted: Form, target: str = "8.9") -> bytes:
    with Workbench(PYTHON, CPU_SERVE) as cpu, Workbench(PYTHON, GPU_SERVE) as gpu:
        cache = Cache(tmp_path / "cache", b"k" * 32, quota_bytes=50_000_000)
        compiled = Pipeline(cache, cpu, gpu, bounds=Bounds(target=target)).compiled(subject, wanted)
    assert compiled.comparison is None, "an engine for another GPU was never run"
    return compiled.entry.file.read_bytes()


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("target", ["8.6", "8.9", "12.0"])
def test_rtx_builds_every_precision_ahead_of_time(tmp_path: Path, precision: Precision, target: str) -> None:
    assert (
        len(built(tmp_path, digit_subject("digits-wide"), Form(Runtime.RTX, precision, DEFAULT_BATCHES), target))
        > 10_000
    )


def test_rtx_refuses_what_it_has_no_code_for(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="SM87"):
        built(tmp_path, digit_subject(), FP32, "8.7")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CompileError, match="parse the ONNX model"):
        built(tmp_path, replace(digit_subject(), file=broken, digest=sha256(b"no model").hexdigest()), FP32)
