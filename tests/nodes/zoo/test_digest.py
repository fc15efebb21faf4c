"""The digest of tensors: its exact format, and what it must and must not depend on."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.digest import tensor_digest


def test_format_is_spelled_out() -> None:
    labels = np.array([1, 2], dtype=np.uint8)
    inputs = np.array([[0.5, 1.0]], dtype=np.float32)
    spelled = b"inputs|float32|1,2|" + bytes.fromhex("0000003f0000803f") + b"labels|uint8|2|" + b"\x01\x02"
    assert tensor_digest({"labels": labels, "inputs": inputs}) == hashlib.sha256(spelled).hexdigest()


def test_layout_in_memory_does_not_matter() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    reference = tensor_digest({"a": rows})
    assert tensor_digest({"a": np.asfortranarray(rows)}) == reference
    assert tensor_digest({"a": rows.astype(">f4")}) == reference


def test_name_type_shape_and_content_matter() -> None:
    rows = np.zeros((2, 3), dtype=np.float32)
    changed = rows.copy()
    changed[1, 2] = 1
    variants: list[dict[str, NDArray[Any]]] = [
        {"b": rows},
        {"a": rows.astype(np.int32)},
        {"a": rows.reshape(3, 2)},
        {"a": changed},
    ]
    digests = {tensor_digest(variant) for variant in [{"a": rows}, *variants]}
    assert len(digests) == 5


def test_scalar_has_empty_shape() -> None:
    spelled = b"a|uint8||" + b"\x07"
    assert tensor_digest({"a": np.array(7, dtype=np.uint8)}) == hashlib.sha256(spelled).hexdigest()
