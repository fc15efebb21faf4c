"""Engines of the real TensorRT-RTX, whose builder needs no GPU. None was run on one by us."""

from __future__ import annotations

import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.errors import CompileError, EngineNotLocal
from nodes.compile.forms import DEFAULT_BATCHES, Form, Precision, Runtime
from nodes.compile.pipeline import Bounds, Pipeline, Subject
from tests.bench.onnx_convs import chain_model
from tests.kernels.chains import random_chain
from tests.nodes.compile.test_cache import flip
from tests.nodes.compile.test_pipeline import digit_subject

pytest.importorskip("tensorrt_rtx", reason="not run: the module tensorrt_rtx is not installed")

PYTHON = Path(sys.executable)
KEY = b"k" * 32
TARGETS = ("8.6", "8.9", "12.0")
VGG16 = (16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128, "M")
FP32 = Form(Runtime.RTX, Precision.FP32, DEFAULT_BATCHES)


def built(tmp_path: Path, subject: Subject, wanted: Form, target: str = "8.9") -> bytes:
    with Workbench(PYTHON, CPU_SERVE) as cpu, Workbench(PYTHON, GPU_SERVE) as gpu:
        cache = Cache(tmp_path / "cache", KEY, quota_bytes=50_000_000)
        compiled = Pipeline(cache, cpu, gpu, bounds=Bounds(target=target)).compiled(subject, wanted)
    assert compiled.comparison is None, "an engine for another GPU was never run"
    return compiled.entry.file.read_bytes()


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("target", TARGETS)
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


def vgg16(folder: Path) -> Subject:
    """VGG16 at a quarter of its width, with random weights: what is built does not depend on them."""
    model = chain_model(random_chain(VGG16, inputs=3, side=32), "n")
    file = folder / "vgg16.onnx"
    file.write_bytes(model)
    images = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    return Subject("vgg16", file, sha256(model).hexdigest(), {"x": images[:16]}, {"x": images[16:]}, None)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("target", TARGETS)
def test_rtx_builds_vgg16_ahead_of_time(tmp_path: Path, precision: Precision, target: str) -> None:
    assert len(built(tmp_path, vgg16(tmp_path), Form(Runtime.RTX, precision, DEFAULT_BATCHES), target)) > 100_000


def test_an_engine_whose_seal_does_not_fit_is_built_anew(tmp_path: Path) -> None:
    with Workbench(PYTHON, CPU_SERVE) as cpu, Workbench(PYTHON, GPU_SERVE) as gpu:
        cache = Cache(tmp_path / "cache", KEY, quota_bytes=50_000_000)
        pipeline = Pipeline(cache, cpu, gpu, bounds=Bounds(target="8.9"))
        subject = digit_subject()
        first = pipeline.compiled(subject, FP32).entry
        assert not pipeline.compiled(subject, FP32).entry.made, "the control: what is whole is used again"
        flip(first.file, at=first.file.stat().st_size // 2)
        with pytest.raises(EngineNotLocal):
            cache.open(first.folder.name, pipeline.purpose(subject, FP32))
        again = pipeline.compiled(subject, FP32).entry
    assert again.made
    assert first.file.stat().st_size > 10_000
