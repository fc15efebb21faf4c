"""The encoder for the gate: it learns, its file says what the network says, and heads never see what it saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from nodes.zoo.__main__ import main
from nodes.zoo.catalog import load_catalog
from nodes.zoo.tensor_encoder import Weights, dealt, export_encoder, tensor_table, train_encoder

pytest.importorskip("onnx", reason="NOT RUN: the encoder is written with the onnx package")


Floats = NDArray[np.float64]


def told(weights: Weights, x_qn: Floats) -> Floats:
    """What the file should give, in plain numpy."""
    score_qc = np.maximum(x_qn @ weights.first_nh + weights.bias_h, 0.0) @ weights.second_hc + weights.bias_c
    share_qc = np.exp(score_qc - score_qc.max(axis=1, keepdims=True))
    share_qc /= share_qc.sum(axis=1, keepdims=True)
    entropy_q = -(share_qc * np.log(share_qc + 1e-12)).sum(axis=1)
    best_q2 = np.sort(score_qc, axis=1)[:, -2:]
    doubt_q = np.log(1.0 + 1e-4 - share_qc.max(axis=1))
    return np.column_stack([doubt_q, entropy_q, best_q2[:, 1] - best_q2[:, 0], share_qc])


def test_the_file_says_what_the_network_says_and_is_surer_of_what_is_easier(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="NOT RUN: the encoder's file needs onnxruntime")
    mine, others = dealt(tensor_table(load_catalog()), 0.5)
    x_qn = mine["inputs"].reshape(len(mine["inputs"]), -1).astype(np.float64)
    weights = train_encoder(x_qn, mine["labels"].astype(np.int64))
    export_encoder(weights, (8, 8), tmp_path / "encoder.onnx")
    session = runtime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    fresh = others["inputs"].astype(np.float32)
    (found,) = session.run(None, {"tensor": fresh})
    np.testing.assert_allclose(found, told(weights, fresh.reshape(len(fresh), -1).astype(np.float64)), atol=2e-3)
    right_q = found[:, 3:].argmax(axis=1) == others["labels"]
    assert right_q.mean() > 0.9
    assert found[right_q, 0].mean() < found[~right_q, 0].mean() - 1.0


def test_the_same_samples_and_seed_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    x_qn, label_q = rng.random((90, 6)), rng.integers(0, 3, 90)
    first, second = (train_encoder(x_qn, label_q, hidden=4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays(), second.arrays(), strict=True))
    assert first.macs == 6 * 4 + 4 * 3


def test_the_command_deals_the_reference_set_into_two_parts_that_share_nothing(tmp_path: Path) -> None:
    out, rest = tmp_path / "encoder.onnx", tmp_path / "rest.npz"
    ended = CliRunner().invoke(main, ["train-encoder", "--out", str(out), "--rest", str(rest), "--share", "0.25"])
    assert ended.exit_code == 0, ended.output
    whole = tensor_table(load_catalog())
    mine, others = dealt(whole, 0.25)
    with np.load(rest, allow_pickle=False) as written:
        np.testing.assert_array_equal(written["inputs"], others["inputs"])
        assert str(written["task"]) == "digits"
    assert len(mine["inputs"]) + len(others["inputs"]) == len(whole["inputs"])
    rows = {row.tobytes() for row in mine["inputs"]}
    assert sum(row.tobytes() in rows for row in others["inputs"]) <= 2
