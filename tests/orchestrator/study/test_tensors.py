"""Gates for tensors through an encoder: what fits is used, what does not is refused or stood aside from."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.tensors import TensorEncoder
from optimizer.heads.given import GivenTensors
from orchestrator.cli.main import run
from orchestrator.config import GateFile
from orchestrator.planning.gate_files import load_gate_file
from orchestrator.study.errors import StudyError
from orchestrator.study.tensors import load_tensor_encoder, read_tensor_table, train_on_tensors
from tests.fakes.encoders import sum_encoder

pytest.importorskip("onnxruntime", reason="NOT RUN: encoders need onnxruntime")

Call = Callable[..., tuple[int, str, str]]


def halves(count: int = 200, *, seed: int = 0, side: int = 4) -> dict[str, NDArray[Any]]:
    """Tensors whose sum is above or below 0; one expert knows the ones, another the others."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, side, side))
    above_q = inputs.reshape(count, -1).sum(axis=1) > 0.0
    quality = np.column_stack([above_q, ~above_q]).astype(np.float64)
    return {"inputs": inputs, "experts": np.array(["up", "down"]), "quality": quality, "task": np.array("sums")}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.npz"
    np.savez(path, allow_pickle=False, **halves())
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return sum_encoder(tmp_path / "sum.onnx", side=4)


@pytest.fixture
def edgewise(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


def test_a_gate_learns_through_its_encoder_what_it_cannot_without(
    edgewise: Call, table: Path, encoder: Path, tmp_path: Path
) -> None:
    fresh, gate = tmp_path / "fresh.npz", tmp_path / "gate.npz"
    np.savez(fresh, allow_pickle=False, **halves(seed=1))
    with_it = ("--tensor-encoder", encoder)
    # Tensors of 16 numbers have no sketch: without an encoder there is nothing to look at.
    code, _, err = edgewise("gate", "train", "--table", table, "--save", gate)
    assert (code, "give a --tensor-encoder" in err) == (2, True)
    assert edgewise("gate", "train", "--table", table, "--save", gate, *with_it)[0] == 0
    code, out, err = edgewise("gate", "eval", "--gate", gate, "--table", fresh, *with_it, "-o", "json")
    assert code == 0, err
    assert all(row["squared_error"] < 0.5 * row["squared_error_of_mean"] for row in json.loads(out))
    code, _, err = edgewise("gate", "eval", "--gate", gate, "--table", table, *with_it)
    assert (code, "every tensor of the table was trained on" in err) == (2, True)


def test_a_gate_goes_with_its_encoder_and_no_other(edgewise: Call, table: Path, encoder: Path, tmp_path: Path) -> None:
    gate, other = tmp_path / "gate.npz", sum_encoder(tmp_path / "other.onnx", side=4, scale=2.0)
    assert edgewise("gate", "train", "--table", table, "--save", gate, "--tensor-encoder", encoder)[0] == 0
    for options, told in ((), "add --tensor-encoder"), (("--tensor-encoder", other), "trained with another encoder"):
        code, _, err = edgewise("gate", "eval", "--gate", gate, "--table", table, *options)
        assert (code, err.count("\n"), told in err) == (2, 1, True), err
    with pytest.raises(StudyError, match="trained with another encoder"):
        load_gate_file("sums", GateFile(file=gate, encoder=other))
    with pytest.raises(StudyError, match="trained with an encoder of tensors"):
        load_gate_file("sums", GateFile(file=gate))
    loaded = load_gate_file("sums", GateFile(file=gate, encoder=encoder))
    quality_g = loaded.given.quality(np.full(16, 0.5))
    assert quality_g is not None
    of = dict(zip(loaded.given.experts, quality_g.tolist(), strict=True))
    assert of["up"] > 0.8 > 0.2 > of["down"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tensor-encoder", "e.onnx", "--table", "t.csv"), "belongs to a --table of tensors"),
        (("--encoder", "e.onnx", "--table", "t.npz"), "is for texts; this table holds tensors"),
    ],
)
def test_what_cannot_be_meant_is_said(edgewise: Call, arguments: tuple[str, ...], told: str) -> None:
    code, _, err = edgewise("gate", "train", "--save", "g.npz", *arguments)
    assert (code, told in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"experts": np.array(["one"])}, "do not fit together"),
        ({"quality": np.full((200, 2), 2.0)}, "between 0 and 1"),
        ({"inputs": np.full((200, 4, 4), np.nan)}, "inputs be finite"),
        ({"task": None}, "array task is missing"),
        ({"inputs": np.array([{}] * 200, dtype=object)}, "not an .npz of plain arrays"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    arrays = {name: array for name, array in {**halves(), **change}.items() if array is not None}
    np.savez(tmp_path / "table.npz", **arrays)
    with pytest.raises(StudyError, match=told):
        read_tensor_table(tmp_path / "table.npz")


def test_models_that_take_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="it takes"):
        load_tensor_encoder(sum_encoder(tmp_path / "free.onnx", side=None))
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(StudyError):
        load_tensor_encoder(tmp_path / "none.onnx")


def test_a_running_gate_stands_aside_for_what_its_encoder_cannot_read(table: Path, encoder: Path) -> None:
    gate = train_on_tensors(read_tensor_table(table), load_tensor_encoder(encoder), penalty=None)
    given = GivenTensors(gate, "sums")
    assert given.quality(np.ones(16)) is not None
    assert given.quality(np.ones(64)) is None


def test_what_is_no_row_of_numbers_for_each_tensor_is_refused() -> None:
    for wrong in (np.zeros((1, 3)), np.zeros((2, 0)), np.full((2, 1), np.nan)):
        encoder = TensorEncoder(partial(_always, wrong), "x")
        with pytest.raises(EvidenceError):
            encoder.features(np.zeros((2, 4)))


def _always(given: NDArray[np.float64], _x_qn: NDArray[np.floating]) -> NDArray[np.float64]:
    return given
