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
def test_a_wrong_file_is_an_error_that_says_what_would_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, brief = tmp_path / "dense.npz", ["--epochs", "1"]
    assert main(["prune", "train", "--net", "digits", "--width", "0.5", "--to", str(dense), *brief]) == 0
    facts = dense.with_suffix(".json").read_text()
    for name, content, beside, needle in [
        ("absent", None, None, "is not there"),
        ("alone", dense.read_bytes(), None, "two files"),
        ("cut", dense.read_bytes()[:3000], facts, "damaged"),
        ("text", b"not arrays", facts, "plain arrays"),
        ("other", dense.read_bytes(), "{}", "not a checkpoint"),
        ("wider", dense.read_bytes(), facts.replace("32,", "48,", 1), "damaged"),
    ]:
        file = tmp_path / f"{name}.npz"
        if content is not None:
            file.write_bytes(content)
        if beside is not None:
            file.with_suffix(".json").write_text(beside)
        for command in (["profile"], ["export", "--to", str(tmp_path / "x.npz")]):
            assert main(["prune", command[0], "--from", str(file), *command[1:]]) == ExitCode.CONFIG, name
            told = capsys.readouterr().err
            assert needle in told
            assert str(file) in told
    (tmp_path / "p.state.npz").write_bytes(b"half a state")
    command = ["prune", "train", "--from", str(dense), "--mass", "0.8", *brief]
    assert main([*command, "--to", str(tmp_path / "p.npz")]) == ExitCode.CONFIG
    assert "Delete that file" in capsys.readouterr().err
    assert main([*command, "--to", str(dense)]) == ExitCode.CONFIG
    assert "overwritten" in capsys.readouterr().err
    assert main(["prune", "export", "--from", str(dense), "--bucket", "0.5", "--to", "x.onnx"]) == ExitCode.CONFIG
    assert "no predictors" in capsys.readouterr().err


@WITH_TORCH
@pytest.mark.parametrize("method", ["ftwt", "static-uniform", "static-taylor"])
def test_a_budget_out_of_reach_is_refused_before_training(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, to = tmp_path / "dense.npz", tmp_path / "x.npz"
    assert main(["prune", "train", "--net", "digits", "--width", "0.5", "--to", str(dense), "--epochs", "1"]) == 0
    flags = ["prune", "train", "--from", str(dense), "--to", str(to), "--method", method, "--epochs", "1"]
    wishes = [["--target-macs", "0.01"], *([["--target-ms", "0.00001"]] if available() else [])]
    for wish in wishes:
        capsys.readouterr()
        assert main([*flags, *wish]) == ExitCode.CONFIG
        told = capsys.readouterr()
        assert "as far as it goes" in told.err
        assert "epoch" not in told.out
    assert main([*flags, "--target-macs", "0.01"]) == ExitCode.CONFIG
    least = capsys.readouterr().err.partition("Ask for ")[2].split()[0]
    assert main([*flags, "--target-macs", least]) == 0, "the control: what the message names can be met"


@WITH_TORCH
def test_images_that_are_missing_or_broken_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "train", "--net", "vgg16", "--to", str(tmp_path / "v.npz"), "--data"]
    assert main([*command, str(tmp_path / "nowhere")]) == ExitCode.CONFIG
    assert "is no folder" in capsys.readouterr().err
    assert main([*command, str(tmp_path)]) == ExitCode.CONFIG
    assert "cifar10_train_rest_30k.parquet" in capsys.readouterr().err
    for name in ("cifar10_train_20k", "cifar10_train_rest_30k", "cifar10_test"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 but no more")
    assert main([*command, str(tmp_path)]) == ExitCode.CONFIG
    told = capsys.readouterr().err
    assert "damaged" in told or "pip install" in told


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
