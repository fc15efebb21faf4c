"""The verbs, from a dense network to a file that a node runs. Those that train need torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kernels.native.library import available
from nodes.cli import main
from nodes.errors import ExitCode
from nodes.worker.chains import ChainModel

WITH_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="not run: torch is not installed")


@pytest.mark.parametrize(
    ("flags", "needle"),
    [
        (["--to", "x.npz", "--mass", "0.5"], "--from"),
        (["--to", "x.npz", "--from", "d.npz"], "--mass"),
        (["--to", "x.npz", "--from", "d.npz", "--mass", "0.5", "--target-macs", "0.5"], "one of"),
    ],
)
@WITH_TORCH
def test_what_cannot_be_meant_is_refused(flags: list[str], needle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "train", *flags]) == ExitCode.CONFIG
    assert needle in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["prune", "train", "--to", "x.npz"]) == ExitCode.CONFIG
    assert "edgewise[train]" in capsys.readouterr().err


@WITH_TORCH
@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_from_nothing_to_a_file_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.set_num_threads(1)
    dense, pruned, served = tmp_path / "dense.npz", tmp_path / "pruned.npz", tmp_path / "served.npz"
    brief = ["--epochs", "1", "--rate", "0.02"]
    assert main(["prune", "train", "--net", "digits", "--width", "0.5", "--to", str(dense), *brief]) == 0
    assert main(["prune", "profile", "--from", str(dense)]) == 0
    table = capsys.readouterr().out
    assert "work saved" in table
    assert "not run" not in table
    wish = ["--target-macs", "0.6"]
    assert main(["prune", "train", "--from", str(dense), "--to", str(pruned), *wish, *brief]) == 0
    assert main(["prune", "export", "--from", str(pruned), "--to", str(served)]) == 0
    model = ChainModel(served.read_bytes())
    image = np.zeros((1, 8, 8), np.float32)
    assert model.run({"image": image})["probabilities"].shape == (1, 10)
    bucket = tmp_path / "half.onnx"
    assert main(["prune", "export", "--from", str(pruned), "--to", str(bucket), "--bucket", "0.5"]) == 0
    session = onnxruntime.InferenceSession(bucket.read_bytes(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": image[None]})[0].shape == (1, 10)
    assert not list(tmp_path.glob("*.state.npz")), "what only a stopped training needs is gone after a whole one"
