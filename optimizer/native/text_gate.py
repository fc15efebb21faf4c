"""Bindings of `text_gate.c`: texts to n-gram streams, to features, to qualities, and products of sparse matrices.

Shape letters: q texts, h buckets, k latents, f features (latents, then structure), t tasks, e experts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.native.library import library

Floats = NDArray[np.float64]
_FLOATS = np.ctypeslib.ndpointer(np.float64, flags="C")
_SINGLES = np.ctypeslib.ndpointer(np.float32, flags="C")
_LONGS = np.ctypeslib.ndpointer(np.int64, flags="C")
_INTS = np.ctypeslib.ndpointer(np.int32, flags="C")
_HASHES = np.ctypeslib.ndpointer(np.uint32, flags="C")
_LONG = ctypes.c_int64

MAX_BUCKETS = 16_384
MAX_LATENTS = 256
MAX_ROW = 1023


class _Encoder(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("marker", ctypes.c_void_p),
        ("latents", _LONG),
        ("mask", _LONG),
    )


class _Gate(ctypes.Structure):
    _fields_ = (
        ("encoder", _Encoder),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("experts", _LONG),
        ("pull", ctypes.c_void_p),
        ("pull_bias", ctypes.c_void_p),
        ("topic_row", ctypes.c_void_p),
        ("topics", _LONG),
    )


class Pulls(NamedTuple):
    """Topics as the compiled code reads them: a text is of the topic whose pull is the largest."""

    weight_kf: Floats
    bias_k: Floats
    row_k: NDArray[np.int64]


class Sparse(NamedTuple):
    """A sparse matrix by rows: of row r, columns and values `start[r]` to `start[r + 1]`."""

    start: NDArray[np.int64]
    column: NDArray[np.int32]
    value: NDArray[np.float32]
    columns: int


class Arrays(NamedTuple):
    """What an encoder is made of; rows lie within ±1023, so that no sum can overflow."""

    rows_hk: NDArray[np.int16]
    scale_k: Floats
    markers: NDArray[np.uint32]


def text_stream(text: bytes, *, buckets: int, markers: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Bucket and weight of every n-gram of a text in order, (n, 2).

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: 10 µs for 500 bytes.
    """
    out = np.empty((3 * min(len(text), 4096) + 16, 2), dtype=np.int32)
    filled = _functions().edgewise_text_stream(text, len(text), buckets - 1, markers, out)
    return out[:filled]


def text_features(texts: Sequence[bytes], arrays: Arrays, *, structure: int) -> Floats:
    """Features of texts, (q, f).

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: about 10 µs per text of 500 bytes.
    """
    start = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=start[1:])
    out_qf = np.zeros((len(texts), arrays.rows_hk.shape[1] + structure))
    functions = _functions()
    functions.edgewise_text_encode(ctypes.byref(_encoder(arrays)), b"".join(texts), start, len(texts), out_qf)
    return out_qf


class Scorer:
    """Qualities of every expert for one text in one call.

    Args:
        arrays: The encoder.
        weights_tfe: Heads by task.
        bias_te: Likewise.
        pulls: Which task's heads judge a text of task 0; None for those of task 0 themselves.

    Raises:
        NativeMissing: The compiled part is not built.
    """

    def __init__(self, arrays: Arrays, weights_tfe: Floats, bias_te: Floats, *, pulls: Pulls | None = None) -> None:
        # Kept, because the compiled code holds plain addresses into them.
        self._kept = [np.ascontiguousarray(part) for part in (weights_tfe, bias_te, *(pulls or ()))]
        self._arrays = arrays
        weights, bias, *topics = (part.ctypes.data for part in self._kept)
        self._experts = bias_te.shape[1]
        gate = _Gate(_encoder(arrays), weights, bias, self._experts)
        if pulls is not None:
            gate.pull, gate.pull_bias, gate.topic_row = topics
            gate.topics = len(pulls.row_k)
        self._gate = ctypes.pointer(gate)
        self._call = _functions().edgewise_text_quality

    def __call__(self, text: bytes, task: int) -> Floats:
        """Quality of each expert, (e,), within 0 and 1. Cost: 10 to 20 µs for 500 bytes and 20 experts."""
        out_e = np.empty(self._experts)
        self._call(self._gate, text, len(text), task, out_e.ctypes.data)
        return out_e


def times(matrix: Sparse, dense: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sparse × dense."""
    out = np.zeros((len(matrix.start) - 1, dense.shape[1]), dtype=np.float32)
    arguments = (matrix.start, matrix.column, matrix.value, len(out), np.ascontiguousarray(dense), dense.shape[1])
    _functions().edgewise_sparse_times(*arguments, out)
    return out


def transposed_times(matrix: Sparse, dense: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transposed sparse × dense."""
    out = np.zeros((matrix.columns, dense.shape[1]), dtype=np.float32)
    arguments = (matrix.start, matrix.column, matrix.value, len(dense), np.ascontiguousarray(dense), dense.shape[1])
    _functions().edgewise_sparse_transposed_times(*arguments, out)
    return out


def _encoder(arrays: Arrays) -> _Encoder:
    rows_hk, scale_k, markers = arrays
    addresses = (rows_hk.ctypes.data, scale_k.ctypes.data, markers.ctypes.data)
    return _Encoder(*addresses, rows_hk.shape[1], len(rows_hk) - 1)


@cache
def _functions() -> ctypes.CDLL:
    lib = library()
    product: list[Any] = [_LONGS, _INTS, _SINGLES, _LONG, _SINGLES, _LONG, _SINGLES]
    lib.edgewise_text_stream.argtypes = [ctypes.c_char_p, _LONG, ctypes.c_uint32, _HASHES, _INTS]
    lib.edgewise_text_stream.restype = _LONG
    lib.edgewise_text_encode.argtypes = [ctypes.POINTER(_Encoder), ctypes.c_char_p, _LONGS, _LONG, _FLOATS]
    lib.edgewise_text_encode.restype = None
    gate: list[Any] = [ctypes.POINTER(_Gate), ctypes.c_char_p, _LONG, _LONG, ctypes.c_void_p]
    lib.edgewise_text_quality.argtypes, lib.edgewise_text_quality.restype = gate, None
    lib.edgewise_sparse_times.argtypes, lib.edgewise_sparse_times.restype = product, None
    lib.edgewise_sparse_transposed_times.argtypes, lib.edgewise_sparse_transposed_times.restype = product, None
    return lib
