"""TensorRT's path from build to answer through the real worker process, with a module that honours its contract.

What a GPU does with a real engine was not run by us; `test_rtx` builds real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from nodes.agent.parts import build_parts
from nodes.arms import CompiledTraits
from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.errors import CompileError, RuntimeMissing
from nodes.compile.forms import Batches, Form, Precision, Runtime
from nodes.compile.pipeline import Bounds, Pipeline, traits_of
from nodes.config import parse_config
from nodes.engines.contract import Job
from nodes.errors import InputInvalid
from nodes.zoo.catalog import load_catalog
from tests.fakes.gpu import setup
from tests.nodes.compile.test_pipeline import digit_subject

PYTHON = Path(sys.executable)
FAKE = pytest.mark.skipif(setup.compiler() is None, reason=setup.NEEDS)


@pytest.fixture(scope="module")
def diary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield setup.install(folder, patch.setenv)


@pytest.fixture(autouse=True)
def _blank_page(diary: Path) -> None:
    diary.write_text("")


def pipeline(root: Path, benches: tuple[Workbench, Workbench]) -> Pipeline:
    return Pipeline(Cache(root, b"k" * 32, quota_bytes=50_000_000), *benches, bounds=Bounds())


@pytest.fixture(scope="module")
def open_benches(diary: Path) -> Iterator[tuple[Workbench, Workbench]]:
    with Workbench(PYTHON, CPU_SERVE) as cpu, Workbench(PYTHON, GPU_SERVE) as gpu:
        yield cpu, gpu


def form(runtime: Runtime, precision: Precision = Precision.FP32, batches: Batches | None = None) -> Form:
    return Form(runtime, precision, batches or Batches(1, 1, 16))


@FAKE
@pytest.mark.parametrize(
    ("runtime", "precision"), [*((Runtime.RTX, one) for one in Precision), (Runtime.TENSORRT, Precision.FP32)]
)
def test_an_engine_is_built_checked_and_answers_as_the_float_model(
    diary: Path, tmp_path: Path, open_benches: tuple[Workbench, Workbench], runtime: Runtime, precision: Precision
) -> None:
    subject, wanted = digit_subject("digits-conv8"), form(runtime, precision)
    opened = pipeline(tmp_path / "cache", open_benches)
    assert opened.purpose(subject, wanted)["device"] == "sm8.9 driver 13000"
    entry = opened.compiled(subject, wanted).entry
    assert entry.main == "model.engine"
    assert opened.compiled(subject, wanted).entry.made is False
    assert diary.read_text().count("built") == 1
    cpu, gpu = open_benches
    some = {name: array[:37] for name, array in subject.held_out.items()}  # Two runs and a rest.
    gpu.load(entry.file, entry.digests[entry.main], traits_of(wanted, entry.beside))
    cpu.load(subject.file, subject.digest)
    atol = {Precision.FP32: 1e-5, Precision.FP16: 1e-2, Precision.INT8: 0.15}[precision]
    np.testing.assert_allclose(gpu.run(some), cpu.run(some), atol=atol)


@FAKE
def test_a_static_engine_takes_any_number_of_samples(
    diary: Path, tmp_path: Path, open_benches: tuple[Workbench, Workbench]
) -> None:
    subject, wanted = digit_subject(), form(Runtime.RTX, batches=Batches(4, 4, 4))
    assert pipeline(tmp_path / "cache", open_benches).compiled(subject, wanted).comparison is not None


@FAKE
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"garbage" + content[7:]])
def test_no_byte_is_deserialised_unverified(
    diary: Path, tmp_path: Path, open_benches: tuple[Workbench, Workbench], damage: object
) -> None:
    assert callable(damage)
    subject, wanted, root = digit_subject(), form(Runtime.RTX), tmp_path / "cache"
    entry = pipeline(root, open_benches).compiled(subject, wanted).entry
    entry.file.write_bytes(damage(entry.file.read_bytes()))
    before = diary.read_text()
    # A process that is handed the damaged file with the announced digest reads it and stops there.
    with pytest.raises(CompileError, match="digest"):
        open_benches[1].load(entry.file, entry.digests[entry.main], CompiledTraits("rtx", (1, 16)))
    again = pipeline(root, open_benches).compiled(subject, wanted)
    assert again.entry.made
    assert "garbage" not in diary.read_text()
    assert diary.read_text().count("built") == before.count("built") + 1
    # The control: a digest of the damaged bytes would have let TensorRT see them.
    bad = tmp_path / "bad.engine"
    bad.write_bytes(b"garbage")
    with pytest.raises(CompileError, match="does not take this engine"):
        open_benches[1].load(bad, sha256(b"garbage").hexdigest(), CompiledTraits("rtx", (1, 16)))
    assert "garbage" in diary.read_text()


@FAKE
@pytest.mark.parametrize(("variable", "value"), [("FAKE_TENSORRT_VERSION", "1.8.0"), ("FAKE_GPU_DRIVER", "13010")])
def test_another_version_or_driver_builds_anew(
    tmp_path: Path,
    open_benches: tuple[Workbench, Workbench],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    subject, wanted, root = digit_subject(), form(Runtime.RTX), tmp_path / "cache"
    made = [pipeline(root, open_benches).compiled(subject, wanted).entry.made for _ in range(2)]
    monkeypatch.setenv(variable, value)
    with Workbench(PYTHON, GPU_SERVE) as gpu:
        benches = (open_benches[0], gpu)
        made += [pipeline(root, benches).compiled(subject, wanted).entry.made for _ in range(2)]
    assert made == [True, False, True, False]


@FAKE
def test_what_was_timed_for_one_model_serves_the_next(
    diary: Path, tmp_path: Path, open_benches: tuple[Workbench, Workbench]
) -> None:
    opened = pipeline(tmp_path / "cache", open_benches)
    entries = [
        opened.compiled(digit_subject(name), form(Runtime.TENSORRT)).entry for name in ("digits-mlp", "digits-conv8")
    ]
    assert [(entry.folder / "timing.cache").read_bytes() for entry in entries] == [b"timed;", b"timed;timed;"]
    (entries[1].folder / "timing.cache").write_bytes(b"poison")
    third = opened.compiled(digit_subject("digits-tinyconv"), form(Runtime.TENSORRT)).entry
    assert (third.folder / "timing.cache").read_bytes() == b"timed;timed;", "unverified timings are not used"


@FAKE
def test_without_a_gpu_it_is_an_error_and_not_the_cpu(
    tmp_path: Path, open_benches: tuple[Workbench, Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPU_GONE", "1")
    with Workbench(PYTHON, GPU_SERVE) as gpu, pytest.raises(RuntimeMissing, match="no CUDA-capable device"):
        pipeline(tmp_path / "cache", (open_benches[0], gpu)).compiled(digit_subject(), form(Runtime.TENSORRT))


@FAKE
async def test_a_node_offers_and_runs_an_engine_beside_the_float_arm(diary: Path, tmp_path: Path) -> None:
    import asyncio

    given = {"gateway": "127.0.0.1:1", "experts": ("digits-mlp",), "compile": ("rtx-fp16",)}
    places = {"compile_cache": tmp_path / "cache", "profile": "laptop-cpu"}
    # Compiling drives an event loop of its own.
    parts = await asyncio.to_thread(build_parts, parse_config({**given, **places}))
    assert [arm.key for arm in parts.inventory.arms] == ["digits-mlp:onnx-fp32", "digits-mlp:rtx-fp16-b1-16"]
    await parts.engine.load(parts.inventory.arms)
    try:
        images = np.ascontiguousarray(load_catalog().held_out.inputs[:20])
        plain, rtx = [
            (await parts.engine.infer(Job(arm.key, {"image": images}))).outputs["probabilities"]
            for arm in parts.inventory.arms
        ]
        np.testing.assert_allclose(rtx, plain, atol=1e-2)
        with pytest.raises(InputInvalid):
            await parts.engine.infer(Job(parts.inventory.arms[1].key, {"image": images[:, :4]}))
    finally:
        await parts.engine.close()
