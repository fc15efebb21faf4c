"""PyTorch models come in through ONNX, if both agree. Needs the extra `train`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nodes.cli import main
from nodes.compile import torch_export
from nodes.compile.errors import CompileError
from nodes.compile.torch_export import Export, export
from nodes.errors import ConfigError, ExitCode

PACKAGES = ("torch", "onnxscript", "safetensors")
WITH_TORCH = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES),
    reason=f"not run: {', '.join(PACKAGES)} are not all installed",
)

MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4 * 64, 10)

    def forward(self, image):
        hidden = torch.relu(self.conv(image[:, None]))
        return torch.softmax(self.head(self.drop(hidden).flatten(1)), dim=1)

calls = []

class Frozen(Net):
    def forward(self, image):
        calls.append(1)
        return super().forward(image) + len(calls)  # A number that the export takes for a constant.
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "users_net.py").write_text(MODULE)
    np.savez(tmp_path / "inputs.npz", image=np.random.default_rng(0).random((64, 8, 8), dtype=np.float32))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("users_net", None)


def images(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "inputs.npz", allow_pickle=False) as archive:
        return {"image": archive["image"]}


def weights(folder: Path, **changes: object) -> Path:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    state = {**importlib.import_module("users_net").Net().state_dict(), **changes}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, folder / "w.safetensors")
    return folder / "w.safetensors"


@WITH_TORCH
def test_what_is_exported_answers_as_torch_does_at_any_batch(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    to = folder / "net.onnx"
    assert export(Export("users_net:Net", weights(folder), to), images(folder)) < 1e-5
    module = torch_export.made("users_net:Net", folder / "w.safetensors").eval()
    session = onnxruntime.InferenceSession(to.read_bytes(), providers=["CPUExecutionProvider"])
    for count in (1, 3, 64):
        image = images(folder)["image"][:count]
        with torch.no_grad():
            expected = module(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(session.run(None, {"image": image})[0], expected, atol=1e-5)


@WITH_TORCH
def test_a_model_that_changes_on_the_way_is_refused_and_not_written(folder: Path) -> None:
    to = folder / "net.onnx"
    with pytest.raises(CompileError, match="differs from PyTorch"):
        export(Export("users_net:Frozen", None, to), images(folder))
    assert [file.name for file in folder.glob("*.onnx*")] == []


@WITH_TORCH
@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"head.bias": None}, "head.bias"),
        ({"more": 1}, "more"),
        ({"head.bias": "nan"}, "finite"),
        ({"head.bias": "short"}, "shape"),
    ],
)
def test_weights_that_are_not_the_modules_are_refused(folder: Path, changes: dict[str, object], needle: str) -> None:
    import torch

    made: dict[object, object] = {"nan": torch.full((10,), torch.nan), "short": torch.zeros(9), 1: torch.zeros(1)}
    file = weights(folder, **{name: made.get(value) for name, value in changes.items()})
    with pytest.raises(ConfigError, match=needle):
        export(Export("users_net:Net", file, folder / "net.onnx"), images(folder))


@WITH_TORCH
def test_a_pickle_is_no_weights_file(folder: Path) -> None:
    import torch

    torch.save({"head.bias": torch.zeros(10)}, folder / "w.pt")
    with pytest.raises(ConfigError, match="safetensors"):
        export(Export("users_net:Net", folder / "w.pt", folder / "net.onnx"), images(folder))


@WITH_TORCH
def test_from_torch_to_a_compiled_file_in_one_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    given = ["--from-torch", "users_net:Net", "--weights", str(weights(folder)), "--inputs", str(folder / "inputs.npz")]
    places = ["--onnx", str(folder / "net.onnx"), "--cache", str(folder / "cache"), "--loss-points", "100"]
    assert main(["compile", "ort", "int8", *given, *places, "-o", "json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert "differ from PyTorch's by" in err
    assert "net:ort-fp32" in out
    assert "net:ort-int8" in out


@WITH_TORCH
@pytest.mark.parametrize("factory", ["users_net", "users_net:Nobody", "no_such_module:Net"])
def test_a_factory_that_cannot_be_found_is_named(folder: Path, factory: str) -> None:
    with pytest.raises(ConfigError, match=factory.partition(":")[0]):
        export(Export(factory, None, folder / "net.onnx"), images(folder))


def test_without_torch_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    given = ["--onnx", str(folder / "net.onnx"), "--inputs", str(folder / "inputs.npz")]
    assert main(["compile", "--from-torch", "users_net:Net", *given]) == ExitCode.CONFIG
    assert "edgewise[train]" in capsys.readouterr().err
