"""Costs on the cards, counted by hand and against the weights in the ONNX files."""

import onnx
import pytest

from nodes.zoo.catalog import load_catalog

FC, CONV3 = 64 * 10, 9
MACS_BY_HAND = {
    "digits-linear": 640,
    "digits-mlp": 64 * 48 + 48 * 10,
    "digits-tinyconv": 64 * CONV3 * 8 + 16 * CONV3 * 8 * 16 + 64 * 10,
    "digits-conv8": 64 * CONV3 * 16 + 16 * CONV3 * 16 * 32 + 128 * 10,
    # 117,600 + 240,000 + 48,000 + 10,080 + 840 = 416,520, and four taps for each of 32 x 32 enlarged pixels.
    "digits-lenet5": 416_520 + 4 * 32 * 32,
    "digits-wide": 4 * 256 + 256 * CONV3 * (32 + 32 * 32) + 64 * CONV3 * (32 * 64 + 64 * 64) + 1024 * 10,
}


@pytest.mark.parametrize("name", MACS_BY_HAND)
def test_macs(name: str) -> None:
    assert load_catalog().expert(name).macs == MACS_BY_HAND[name]


@pytest.mark.parametrize("name", MACS_BY_HAND)
def test_parameters_and_graph(name: str) -> None:
    catalog = load_catalog()
    card = catalog.expert(name)
    model = onnx.load(catalog.model_path(card))
    weights = sum(_elements(tensor) for tensor in model.graph.initializer if tensor.dims)
    # Folding trades two parameters per normalised channel for one offset.
    folded = 32 + 32 + 64 + 64 if name == "digits-wide" else 0
    assert weights == pytest.approx(card.parameters - folded, abs=8)
    assert card.memory_bytes > card.parameters * 4 + catalog.model_path(card).stat().st_size
    assert model.opset_import[0].version == 17
    assert model.graph.node[-1].op_type == "Softmax"


def test_files_tell_nothing_about_where_they_were_made() -> None:
    catalog = load_catalog()
    for card in catalog.experts:
        content = catalog.model_path(card).read_bytes()
        assert b".py" not in content
        assert b"/home" not in content
        assert b"/tmp" not in content


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
