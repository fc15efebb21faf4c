"""Features that may be written down in place of a query: a text's hashed counts, and a sketch of a tensor.

Neither holds the query. A text becomes the summed weights of its hashed n-grams, out of order, and counts of what it
looks like: exactly what the encoder reads, so that a gate can be trained without the text. A tensor becomes 32 sums of
all its numbers under fixed random signs, too few to solve for them, and 5 counts. Both still tell something about the
query (a short text can be guessed and compared), which is why recording them is the operator's choice.

Shape letters: q queries, n n-grams of a text, s structure features, f features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.encoder import BUCKETS, Encoder, as_bytes
from optimizer.gate.reference import STRUCTURE, marker_hashes
from optimizer.native.text_gate import Arrays, Sparse, text_features, text_stream

Floats = NDArray[np.float64]

# Sums of a tensor. Half of the numbers of the smallest tensor that is sketched, so that none can be solved for.
SKETCH = 32
SMALLEST = 2 * SKETCH
STATISTICS = 5
# Larger tensors are first folded to so many numbers, with random signs.
_FOLDED = 4096


class Counts(NamedTuple):
    """What is kept of a text.

    Args:
        bucket_n: Hashed n-grams that occur, ascending.
        weight_n: Their summed weights.
        structure_s: What the text looks like.
    """

    bucket_n: NDArray[np.int64]
    weight_n: NDArray[np.int64]
    structure_s: Floats


def count_text(text: str) -> Counts:
    """The hashed counts of a text.

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: 80 µs for 500 bytes.
    """
    data, markers = as_bytes(text), _markers()
    stream_n2 = text_stream(data, buckets=BUCKETS, markers=markers)
    bucket_n, place_n = np.unique(stream_n2[:, 0], return_inverse=True)
    weight_n = np.bincount(place_n, stream_n2[:, 1], len(bucket_n)).astype(np.int64)
    nothing = Arrays(np.zeros((1, 32), dtype=np.int16), np.ones(32), markers)
    structure_s = text_features([data], nothing, structure=STRUCTURE)[0, -STRUCTURE:]
    return Counts(bucket_n.astype(np.int64), weight_n, structure_s)


@lru_cache(maxsize=1)
def _markers() -> NDArray[np.uint32]:
    return marker_hashes()


def matrix_of(counts: Sequence[Counts]) -> Sparse:
    """The counts of several texts as one sparse matrix."""
    start = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum([len(one.bucket_n) for one in counts], out=start[1:])
    column = np.concatenate([one.bucket_n for one in counts]).astype(np.int32)
    return Sparse(start, column, np.concatenate([one.weight_n for one in counts]).astype(np.float32), BUCKETS)


def features_of(encoder: Encoder, counts: Sequence[Counts]) -> Floats:
    """What `encoder.encode` gives for the texts that the counts were made of, (q, f), up to rounding."""
    sums = [one.weight_n @ encoder.rows_hk[one.bucket_n].astype(np.int64) for one in counts]
    raw_qk = np.array(sums, dtype=np.float64).reshape(len(counts), -1) * encoder.scale_k
    length_q = np.sqrt((raw_qk**2).sum(axis=1, keepdims=True))
    structure_qs = np.array([one.structure_s for one in counts])
    return np.hstack([raw_qk / np.where(length_q > 0.0, length_q, 1.0), structure_qs])


def sketch_tensor(x: NDArray[np.floating]) -> Floats | None:
    """Features of a tensor, (37,); None for one of fewer than 64 numbers or with numbers that are not finite.

    Cost: 90 µs for 64 numbers, 3 ms for 150,000.
    """
    x_f = np.asarray(x, dtype=np.float64).reshape(-1)
    if len(x_f) < SMALLEST or not np.isfinite(x_f).all():
        return None
    statistics = [x_f.mean(), x_f.std(), np.abs(x_f).mean(), np.abs(np.diff(x_f)).mean(), np.sqrt((x_f**2).mean())]
    sums_f = _signs(min(len(x_f), _FOLDED)) @ _folded(x_f) / np.sqrt(len(x_f))
    return np.concatenate([sums_f, statistics])


def _folded(x_f: Floats) -> Floats:
    if len(x_f) <= _FOLDED:
        return x_f
    places = np.arange(len(x_f))
    signed_f = np.where(_hashed(places) & 1, 1.0, -1.0) * x_f
    return np.asarray(np.bincount(places % _FOLDED, signed_f, _FOLDED), dtype=np.float64)


@lru_cache(maxsize=8)
def _signs(size: int) -> Floats:
    """Fixed random signs, (32, size): the same on every machine and in every version."""
    places = np.arange(SKETCH * size) + (size << 20)
    return np.where(_hashed(places) & 1, 1.0, -1.0).reshape(SKETCH, size)


def _hashed(places: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The finaliser of MurmurHash3, as in `reference.mixed`."""
    h = places.astype(np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return np.asarray(h ^ (h >> np.uint32(16)))
