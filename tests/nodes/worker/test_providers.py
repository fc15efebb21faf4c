"""ONNX Runtime falls back to the CPU without an exception; an arm that asked for a GPU must not."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nodes.worker import providers
from nodes.worker.building import build
from nodes.worker.providers import CPU, CUDA, TENSORRT, LoadRefused, require, session_on
from nodes.worker.sessions import Sessions
from nodes.zoo.catalog import load_catalog


@pytest.fixture
def model() -> bytes:
    catalog = load_catalog()
    return catalog.model_path(catalog.expert("digits-linear")).read_bytes()


@pytest.fixture
def _pretends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that lists CUDA, as its GPU build does on a machine whose driver does not fit."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])


@pytest.mark.usefixtures("_pretends")
@pytest.mark.parametrize("runtime", ["cuda", "ort-tensorrt"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_is_refused(model: bytes, runtime: str) -> None:
    with pytest.raises(LoadRefused, match=r"runs on .*CPUExecutionProvider"):
        session_on(model, runtime)


@pytest.mark.usefixtures("_pretends")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_without_the_check_it_would_run_on_the_cpu(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "require", lambda _found, _wanted: None)
    assert session_on(model, "cuda").get_providers() == [CPU]


def test_a_provider_that_is_not_built_in_is_refused_at_once(model: bytes) -> None:
    with pytest.raises(LoadRefused, match="has no CUDAExecutionProvider"):
        session_on(model, "cuda")
    assert session_on(model, "ort").get_providers() == [CPU]


@pytest.mark.parametrize(
    ("found", "wanted", "good"),
    [
        ([CUDA, CPU], (CUDA,), True),
        ([TENSORRT, CUDA, CPU], (TENSORRT, CUDA), True),
        ([CUDA, CPU], (TENSORRT, CUDA), False),
        ([CPU], (CUDA,), False),
        ([CPU, CUDA], (CUDA,), False),
        ([TENSORRT, CUDA, CPU], (CUDA,), False),
        ([CPU], (CPU,), True),
    ],
)
def test_what_counts_as_running_there(found: list[str], wanted: tuple[str, ...], good: bool) -> None:
    if good:
        require(found, wanted)
    else:
        with pytest.raises(LoadRefused):
            require(found, wanted)


class _Provider:
    """A session of the TensorRT provider as its documentation has it: engines appear in its folder as shapes come."""

    def __init__(self, content: bytes, sess_options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        self._inner = REAL_SESSION(content, sess_options, providers=[CPU])
        self._names = [name for name, _ in providers]
        self._folder = Path(dict(providers)[TENSORRT]["trt_engine_cache_path"])
        assert dict(providers)[TENSORRT]["trt_timing_cache_enable"] == "1"

    def get_providers(self) -> list[str]:
        return [*self._names, CPU]

    def get_inputs(self) -> object:
        return self._inner.get_inputs()

    def run(self, names: object, inputs: dict[str, np.ndarray]) -> object:
        batch = len(next(iter(inputs.values())))
        (self._folder / f"graph_b{batch}.engine").write_bytes(b"engine")
        return self._inner.run(names, inputs)


REAL_SESSION = onnxruntime.InferenceSession


@pytest.mark.usefixtures("_pretends")
def test_the_tensorrt_providers_engines_are_made_at_the_build_and_lie_in_the_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Provider)
    source = tmp_path / "source.onnx"
    source.write_bytes(model)
    order = {"runtime": "ort-tensorrt", "source": source, "folder": tmp_path, "batches": [1, 1, 16]}
    assert build(order, lambda _step: None) == "model.onnx"
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == ["graph_b1.engine", "graph_b16.engine"]


def test_a_file_beside_is_read_only_with_its_digest(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(model)
    (tmp_path / "graph.engine").write_bytes(b"engine")
    about = {"runtime": "ort", "beside": {"graph.engine": sha256(b"engine").hexdigest()}}
    load = (str(tmp_path / "model.onnx"), sha256(model).hexdigest())
    assert Sessions().load("arm", *load, compiled=about)["inputs"]
    (tmp_path / "graph.engine").write_bytes(b"poison")
    with pytest.raises(LoadRefused, match=r"graph\.engine"):
        Sessions().load("arm", *load, compiled=about)
