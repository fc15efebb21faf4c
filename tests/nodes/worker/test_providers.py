"""ONNX Runtime falls back to the CPU without an exception; an arm that asked for a GPU must not."""

from __future__ import annotations

import onnxruntime
import pytest

from nodes.worker import providers
from nodes.worker.providers import CPU, CUDA, TENSORRT, LoadRefused, require, session_on
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
