"""The store of evidence: bounded, and keyed by what the bytes really are."""

import numpy as np
import pytest

from nodes.zoo.digest import tensor_digest as node_digest
from orchestrator.errors import RequestError
from orchestrator.fleet.evidence import EvidenceStore, tensor_digest
from orchestrator.types import Array


def a_set(value: float) -> dict[str, Array]:
    """4000 bytes."""
    return {"outputs": np.full((100, 10), value, dtype=np.float32)}


def test_gateway_and_node_agree_on_digests() -> None:
    rng = np.random.default_rng(5)
    for dtype in ("float32", "float64", "int64", "uint8", "bool"):
        tensors = {"b": rng.normal(size=(3, 2)).astype(dtype), "a": np.arange(4).astype(dtype)}
        assert tensor_digest(tensors) == node_digest(tensors)


def test_what_nobody_announces_makes_room() -> None:
    store = EvidenceStore(limit_bytes=8500)
    sets = [a_set(float(n)) for n in range(3)]
    digests = [tensor_digest(tensors) for tensors in sets]
    in_use = frozenset(digests[1:])
    for digest, tensors in zip(digests, sets, strict=True):
        store.put(digest, tensors, in_use=in_use)
    assert [digest in store for digest in digests] == [False, True, True]
    extra = a_set(9.0)
    with pytest.raises(RequestError):
        store.put(tensor_digest(extra), extra, in_use=frozenset([*digests, tensor_digest(extra)]))
    assert [digest in store for digest in digests] == [False, True, True]


def test_the_store_keeps_its_own_copy() -> None:
    store = EvidenceStore()
    tensors = a_set(1.0)
    digest = tensor_digest(tensors)
    store.put(digest, tensors, in_use=frozenset())
    tensors["outputs"][0, 0] = 7.0
    kept = store.get(digest)
    assert kept is not None
    assert kept["outputs"][0, 0] == 1.0


def test_each_missing_digest_is_wanted_once_and_empty_ones_never() -> None:
    store = EvidenceStore()
    store.put(tensor_digest(a_set(1.0)), a_set(1.0), in_use=frozenset())
    assert store.wanted(["x", "", tensor_digest(a_set(1.0)), "y", "x"]) == ["x", "y"]
