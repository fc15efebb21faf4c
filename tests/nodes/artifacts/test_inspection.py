"""Bad models are refused before anything loads them, for the right reason; and with a check off its case passes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from nodes.artifacts import inspection, onnx_tables, onnx_tensors
from nodes.artifacts.inspection import Inspected, inspect
from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.artifacts.onnx_check import OnnxLimits
from nodes.errors import ArtifactRefused
from tests.fakes import hostile_onnx
from tests.fakes.hostile import BY_RUNNING, GOOD_CARD, ONNX, Case, cases

CANARY, MARK = "/canary.bin", "/mark"
CASES = {case.name: case for case in cases(CANARY, MARK)}


def look(content: dict[str, bytes], limits: OnnxLimits | None = None) -> Inspected:
    """Inspect files that were never on a disk."""
    blobs = {hashlib.sha256(data).hexdigest(): data for data in content.values()}
    entries = tuple(
        FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(content.items())
    )

    @contextmanager
    def opened(sha256: str) -> Iterator[memoryview]:
        yield memoryview(blobs[sha256])

    return inspect(Manifest("guest", "digits", entries), opened, limits)


def good(**files: bytes) -> dict[str, bytes]:
    return Case("good", {ONNX: hostile_onnx.linear(), **files}, "").content()


@pytest.mark.parametrize("name", sorted(set(CASES) - BY_RUNNING))
def test_bad_models_are_refused_for_the_right_reason(name: str) -> None:
    case = CASES[name]
    with pytest.raises(ArtifactRefused) as refused:
        look(case.content())
    assert refused.value.reason == case.reason
    # What goes to whoever pushed it is one sentence without paths of this machine.
    assert len(refused.value.message) <= 200
    assert CANARY not in refused.value.message


@pytest.mark.parametrize("name", sorted(BY_RUNNING))
def test_what_only_running_shows_passes_the_inspection(name: str) -> None:
    assert look(CASES[name].content()).card.name == "guest"


def test_good_models_pass() -> None:
    found = look(good())
    assert (found.model.path, found.outside, found.evidence) == (ONNX, (), None)
    data = hostile_onnx.WEIGHTS.tobytes()
    beside = {ONNX: hostile_onnx.outside("w.bin"), "w.bin": data}
    (tensor,) = look(Case("beside", beside, "").content()).outside
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.offset) == ("w", "float32", (64, 10), 0)


def test_masks_of_minus_infinity_and_infinite_scalars_pass() -> None:
    weights = hostile_onnx.WEIGHTS.copy()
    weights[0, 0] = -np.inf
    assert look(Case("mask", {ONNX: hostile_onnx.linear(weights)}, "").content()).outside == ()


def test_the_tables_name_every_field_of_the_messages() -> None:
    """What the ONNX package knows and the table does not would be refused; what the table makes up would hide."""
    from onnx import onnx_ml_pb2 as onnx

    kinds = {
        onnx_tables.MODEL: onnx.ModelProto,
        onnx_tables.GRAPH: onnx.GraphProto,
        onnx_tables.NODE: onnx.NodeProto,
        onnx_tables.ATTRIBUTE: onnx.AttributeProto,
        onnx_tables.TENSOR: onnx.TensorProto,
        onnx_tables.VALUE: onnx.ValueInfoProto,
        onnx_tables.TYPE: onnx.TypeProto,
        onnx_tables.SHAPED: onnx.TypeProto.Tensor,
        onnx_tables.DIMS: onnx.TensorShapeProto,
        onnx_tables.DIM: onnx.TensorShapeProto.Dimension,
        onnx_tables.PAIR: onnx.StringStringEntryProto,
        onnx_tables.OPSET: onnx.OperatorSetIdProto,
        onnx_tables.SEQUENCE: onnx.TypeProto.Sequence,
        onnx_tables.MAP: onnx.TypeProto.Map,
        onnx_tables.QUANTISED: onnx.TensorAnnotation,
    }
    for kind, message in kinds.items():
        fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
        assert set(onnx_tables.FIELDS[kind]) == {one.number for one in fields}, kind
        plain = {one.number for one in fields if one.message_type is None}
        listed = {number for number, below in onnx_tables.FIELDS[kind].items() if below == onnx_tables.PLAIN}
        assert listed == plain, kind
    assert set(onnx_tables.FIELDS) == set(kinds)
    known = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
    assert set(onnx_tables.BITS) | {onnx_tables.STRING_TYPE} == known


# ---- controls: with one check off, its case passes


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("D23 foreign operator", OnnxLimits(domains=None)),
        ("D23 100,001 nodes", OnnxLimits(max_nodes=200_000)),
        ("D23 nested", OnnxLimits(max_depth=1000)),
    ],
)
def test_with_another_limit_its_case_passes(name: str, limits: OnnxLimits) -> None:
    assert look(CASES[name].content(), limits).card.name == "guest"


@pytest.mark.parametrize("name", ["D25 NaN in ONNX", "D25 NaN beside ONNX"])
def test_without_looking_at_the_numbers_they_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_tensors, "check_numbers", lambda *_: None)
    monkeypatch.setattr(inspection, "check_numbers", lambda *_: None)
    assert look(CASES[name].content()).card.name == "guest"


def test_without_sniffing_a_zip_that_is_onnx_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "refuse_foreign", lambda *_: None)
    assert look(CASES["D26 ONNX that is a zip too"].content()).card.name == "guest"


def test_without_looking_for_others_files_lie_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_refuse_others", lambda *_: None)
    assert look(CASES["D26 unknown file"].content()).card.name == "guest"


def test_without_a_look_at_paths_a_tensor_outside_is_only_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is a second wall: what is not listed is not read, wherever it lies."""
    monkeypatch.setattr(onnx_tensors, "check_path", lambda *_: None)
    with pytest.raises(ArtifactRefused) as refused:
        look(CASES["D21 up"].content())
    assert refused.value.reason == "ARTIFACT_INVALID"


def test_a_card_is_that_of_its_manifest() -> None:
    assert look(good()).card.name == GOOD_CARD["name"]
