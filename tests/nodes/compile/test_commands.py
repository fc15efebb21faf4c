"""`compile` and `cache`, from a model to a file that verifies, and to one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.cli import main
from nodes.errors import ExitCode
from tests.nodes.compile.conftest import fragile

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def called(*arguments: object) -> tuple[int, Any, str]:
        code = main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("[") else out, err

    return called


def files(folder: Path) -> tuple[Path, Path]:
    """A model that eight bits ruin, and its inputs with labels."""
    subject = fragile(folder)
    assert subject.labels_n is not None
    x = np.concatenate([subject.calibration["x"], subject.held_out["x"]])
    np.savez(folder / "samples.npz", x=x, labels=(x[:, 1] > x[:, 0]).astype(np.uint8))
    return subject.file, folder / "samples.npz"


def test_from_experts_to_a_cache_that_is_listed_verified_and_cleared(run: Run, tmp_path: Path) -> None:
    code, rows, err = run("compile", "ort", "digits-mlp:int8", "--experts", "digits-mlp", "-o", "json")
    assert code == ExitCode.OK
    assert [row["arm"] for row in rows] == ["digits-mlp:ort-fp32", "digits-mlp:ort-int8"]
    assert {row["made"] for row in rows} == {"now"}
    assert "optimise" in err, "progress is told"
    kept = run("compile", "ort", "--experts", "digits-mlp", "-o", "json")[1]
    assert kept[0]["made"] == "kept"
    assert {row["arm"] for row in run("cache", "list", "-o", "json")[1]} == {row["arm"] for row in rows}
    code, checked, _ = run("cache", "verify", "-o", "json")
    assert (code, [row["ok"] for row in checked]) == (ExitCode.OK, [True, True])
    Path(rows[0]["file"]).write_bytes(b"damaged")
    code, checked, _ = run("cache", "verify", "-o", "json")
    assert code == ExitCode.ENGINE_FAILED
    assert sorted(row["ok"] for row in checked) == [False, True]
    assert "1 deleted" in run("cache", "prune", "--bad")[1]
    assert "1 deleted" in run("cache", "prune")[1]
    assert run("cache", "list", "-o", "json")[1] == []


def test_any_model_with_its_inputs(run: Run, tmp_path: Path) -> None:
    model, samples = files(tmp_path)
    code, rows, _ = run("compile", "ort", "--onnx", model, "--inputs", samples, "-o", "json")
    assert (code, rows[0]["arm"], rows[0]["loss_points"]) == (ExitCode.OK, "fragile:ort-fp32", 0.0)
    code, _, err = run("compile", "int8", "--onnx", model, "--inputs", samples)
    assert code == ExitCode.ENGINE_FAILED
    assert "fragile:ort-int8 on 200 held-out inputs loses" in err


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ([], "at least one form"),
        (["ort", "--onnx", "{model}"], "--inputs"),
        (["ort", "--onnx", "nowhere.onnx", "--inputs", "{samples}"], "nowhere.onnx"),
        (["auto", "--onnx", "{model}", "--inputs", "{samples}"], "name forms"),
        (["x:ort", "--onnx", "{model}", "--inputs", "{samples}"], "name forms"),
        (["ort", "--onnx", "{model}", "--inputs", "{model}"], "npz"),
        (["ort", "--experts", "nobody"], "nobody"),
        (["ort", "--onnx", "{model}", "--inputs", "{uneven}"], "same number of samples"),
        (["ort", "--onnx", "{model}", "--inputs", "{infinite}"], "not finite"),
    ],
)
def test_what_does_not_fit_together_is_said(run: Run, tmp_path: Path, arguments: list[str], needle: str) -> None:
    model, samples = files(tmp_path)
    np.savez(tmp_path / "uneven.npz", x=np.zeros((4, 3), np.float32), labels=np.zeros(3))
    np.savez(tmp_path / "infinite.npz", x=np.full((4, 3), np.inf, np.float32))
    places = {"model": model, "samples": samples, "uneven": tmp_path / "uneven.npz"}
    given = [one.format(**places, infinite=tmp_path / "infinite.npz") for one in arguments]
    code, _, err = run("compile", *given)
    assert code == ExitCode.CONFIG
    assert needle in err
    assert "Traceback" not in err
