"""Graphs that a node writes itself: valid, and equal to the file they were read from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from kernels.errors import KernelError, ShapeError
from kernels.native.library import available
from nodes.personal import compiled, graph, protobuf
from nodes.personal.delta import Delta, fold, shapes
from nodes.personal.gate import HIDDEN, Gate, closed
from nodes.personal.network import macs, parameters
from nodes.personal.onnx_file import NotPersonal, read_network
from nodes.personal.warp import IDENTITY
from nodes.worker.sessions import model_of
from nodes.zoo.catalog import DEFAULT_FOLDER, load_catalog

CHAINS = ("digits-tinyconv", "digits-conv8", "digits-lenet5", "digits-wide")


def _session(model: bytes) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _model(expert: str) -> bytes:
    return (DEFAULT_FOLDER / f"{expert}.onnx").read_bytes()


@pytest.fixture
def images() -> np.ndarray:
    return load_catalog().held_out.inputs[:40]


@pytest.mark.parametrize("expert", CHAINS)
def test_observed_answers_as_the_shipped_file(expert: str, images: np.ndarray) -> None:
    network, weights = read_network(_model(expert), 8)
    card = load_catalog().expert(expert)
    assert macs(network, weights) == pytest.approx(card.macs, rel=0.02)
    told = _session(graph.observed(network, weights)).run(None, {"image": images})
    expected = _session(_model(expert)).run(None, {"image": images})[0]
    np.testing.assert_allclose(told[0], expected, atol=1e-5)
    assert told[1].shape == (40, weights[network.last.weight].shape[1])
    assert told[2].shape == (40, 5 * len(weights[network.first.bias]))


@pytest.mark.parametrize("expert", CHAINS)
def test_the_gate_decides_between_global_and_local_weights(expert: str, images: np.ndarray) -> None:
    network, weights = read_network(_model(expert), 8)
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.05, s).astype(np.float32) for n, s in shapes(network, weights).items()}
    local = fold(network, weights, Delta(arrays, IDENTITY))
    seen = 5 * len(weights[network.first.bias])
    open_gate = Gate(
        np.zeros((seen, HIDDEN), np.float32), np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32), 1.0
    )
    shut = _session(graph.personal(network, weights, local, closed(seen)))
    opened = _session(graph.personal(network, weights, local, open_gate))
    plain = _session(graph.observed(network, weights)).run(["probabilities"], {"image": images})[0]
    changed = _session(graph.observed(network, local)).run(["probabilities"], {"image": images})[0]
    assert np.abs(plain - changed).max() > 0.01
    for row in range(8):
        one = {"image": images[row : row + 1]}
        probabilities, by_local = shut.run(None, one)
        np.testing.assert_allclose(probabilities, plain[row : row + 1], atol=1e-5)
        assert not by_local.item()
        probabilities, by_local = opened.run(None, one)
        np.testing.assert_allclose(probabilities, changed[row : row + 1], atol=1e-5)
        assert by_local.item()


@pytest.mark.skipif(not available(), reason="NOT RUN: no compiled library")
@pytest.mark.parametrize("expert", CHAINS)
def test_the_compiled_form_answers_as_the_graph(expert: str, images: np.ndarray) -> None:
    """As the worker loads it; the gate is between its samples. The control: other weights give other answers."""
    network, weights = read_network(_model(expert), 8)
    assert compiled.known(network)
    rng = np.random.default_rng(1)
    arrays = {n: rng.normal(0, 0.05, s).astype(np.float32) for n, s in shapes(network, weights).items()}
    local = fold(network, weights, Delta(arrays, IDENTITY))
    plain, _, seen_ng = _session(graph.observed(network, weights)).run(None, {"image": images})
    first_fh = rng.normal(0, 1, (seen_ng.shape[1], HIDDEN)).astype(np.float32)
    gate = Gate(first_fh, np.zeros(HIDDEN, np.float32), np.ones(HIDDEN, np.float32), 0.0)
    gate = replace(gate, threshold=-float(np.median(gate.score(seen_ng))))
    model = model_of(compiled.packed(compiled.personal(network, weights, local, gate)), Path(""), "")
    told = model.run({"image": images})
    assert 10 <= told["local"].sum() <= 30
    session = _session(graph.personal(network, weights, local, gate))
    for row in range(len(images)):
        probabilities, by_local = session.run(None, {"image": images[row : row + 1]})
        np.testing.assert_allclose(told["probabilities"][row], probabilities[0], atol=1e-5)
        assert told["local"][row] == by_local
    alone = model_of(compiled.packed(compiled.plain(network, weights)), Path(""), "").run({"image": images})
    np.testing.assert_allclose(alone["probabilities"], plain, atol=1e-5)
    assert np.abs(alone["probabilities"] - told["probabilities"]).max() > 0.01


@pytest.mark.skipif(not available(), reason="NOT RUN: no compiled library")
def test_what_the_worker_cannot_run_is_refused() -> None:
    network, weights = read_network(_model("digits-lenet5"), 8)
    whole = compiled.packed(compiled.plain(network, weights))
    model = model_of(whole, Path(""), "")
    for wrong in ({"picture": np.zeros((1, 8, 8), np.float32)}, {"image": np.zeros((1, 8, 9), np.float32)}):
        with pytest.raises(ShapeError):
            model.run(wrong)
    for cut in (whole[:100], whole[: len(whole) // 2], b"PK\x03\x04"):
        with pytest.raises(KernelError, match="not a forked classifier"):
            model_of(cut, Path(""), "")
    grouped = replace(network, stages=(network.first, replace(network.stages[1], groups=2), *network.stages[2:]))
    assert not compiled.known(grouped)


def test_lenet_has_the_published_size() -> None:
    network, weights = read_network(_model("digits-lenet5"), 8)
    assert parameters(network, weights) == 61_706


@pytest.mark.parametrize("expert", ["digits-linear", "digits-mlp"])
def test_what_is_no_chain_of_convolutions_is_refused(expert: str) -> None:
    with pytest.raises(NotPersonal):
        read_network(_model(expert), 8)


def test_cut_files_are_refused(tmp_path: Path) -> None:
    model = _model("digits-lenet5")
    for size in (0, 7, 100, len(model) // 2, len(model) - 1):
        with pytest.raises(NotPersonal):
            read_network(model[:size], 8)


def test_numbers_survive_the_wire_format() -> None:
    data = protobuf.number(3, 300) + protobuf.block(4, b"abc") + protobuf.number(5, -1)
    found = [(number, value if isinstance(value, int) else bytes(value)) for number, value in protobuf.fields(data)]
    assert found == [(3, 300), (4, b"abc"), (5, (1 << 64) - 1)]
    assert protobuf.signed((1 << 64) - 1) == -1
