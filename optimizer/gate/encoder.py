"""The shared encoder: texts to a few latents and a few counts, learnt without quality labels.

Training is a truncated singular value decomposition of the hashed, tf-idf weighted n-grams of a sample of texts; what
is kept of it is one small integer row per bucket, so that a text is encoded by adding rows. Because no label takes
part, every head may use the encoder without hearing of another.

Shape letters: q texts, h buckets, k latents, s structure features, f features (k, then s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.reference import STRUCTURE, marker_hashes
from optimizer.native.text_gate import (
    MAX_ROW,
    Arrays,
    Sparse,
    text_features,
    text_stream,
    times,
    transposed_times,
)

Floats = NDArray[np.float64]

BUCKETS = 16_384
# Error on unseen prompts is the same with 64 of them, and with runs of 3 and 5 bytes beside those of 4; a row of 32 is
# one cache line, and a decision mostly waits for memory.
LATENTS = 32
# Texts that the decomposition is made of. Held-out error of the heads is flat from 2,000 on.
_SAMPLE = 3_000
_OVERSAMPLE = 8
_ROUNDS = 2
# The largest entries of a latent's rows are clipped at this quantile, so that the rest keeps its resolution.
_CLIP = 0.999
# Latents are divided by this power of their spread: with 0 the first few decide, with 1 noise does.
_WHITENING = 0.5


@dataclass(frozen=True)
class Encoder:
    """Text to features.

    Args:
        rows_hk: One row per bucket, entries within ±1023.
        scale_k: What one unit of each latent's entries means.
    """

    rows_hk: NDArray[np.int16]
    scale_k: Floats

    @property
    def features(self) -> int:
        """Number of features of a text."""
        return int(self.rows_hk.shape[1]) + STRUCTURE

    @property
    def arrays(self) -> Arrays:
        """What the compiled code reads."""
        return Arrays(self.rows_hk, self.scale_k, marker_hashes())

    def encode(self, texts: Sequence[str]) -> Floats:
        """Features of texts, (q, f).

        Raises:
            NativeMissing: The compiled part is not built.

        Cost: about 10 µs per text of 500 characters.
        """
        return text_features([as_bytes(text) for text in texts], self.arrays, structure=STRUCTURE)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays that `from_arrays` takes."""
        return {"rows_hk": self.rows_hk, "scale_k": self.scale_k}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Encoder:
        """An encoder from its arrays.

        Raises:
            EvidenceError: Arrays that no encoder has; the compiled code would read past them.
        """
        rows_hk, scale_k = arrays["rows_hk"], arrays["scale_k"]
        buckets = len(rows_hk)
        fits = rows_hk.ndim == 2 and 0 < buckets <= BUCKETS and not buckets & (buckets - 1)
        if not fits or rows_hk.dtype != np.int16 or not 0 < rows_hk.shape[1] <= LATENTS or rows_hk.shape[1] % 32:
            raise EvidenceError("The encoder's rows are not those of a gate of this version.")
        if scale_k.shape != rows_hk.shape[1:] or np.abs(rows_hk.astype(np.int64)).max() > MAX_ROW:
            raise EvidenceError("The encoder's rows and scales do not fit together.")
        return cls(np.ascontiguousarray(rows_hk), np.ascontiguousarray(scale_k, dtype=np.float64))


def as_bytes(text: str) -> bytes:
    """UTF-8; what cannot be encoded (half of a surrogate pair) becomes a question mark."""
    return text.encode("utf-8", "replace")


def fit_encoder(texts: Sequence[str], *, seed: int = 0) -> Encoder:
    """Learn an encoder from texts alone.

    Args:
        texts: May hold empty ones; at most 3,000 of them, drawn by seed, are read.
        seed: Of the sample and of the decomposition's start.

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: 1 to 2 s for 3,000 texts of 400 characters.
    Source: randomised range finder, arXiv 0909.4061, algorithms 4.4 and 5.1.
    """
    rng = np.random.default_rng(seed)
    filled = [as_bytes(text) for text in texts if text.strip()]
    if len(filled) > _SAMPLE:
        filled = [filled[i] for i in np.sort(rng.choice(len(filled), _SAMPLE, replace=False))]
    if not filled:
        return Encoder(np.zeros((BUCKETS, LATENTS), dtype=np.int16), np.ones(LATENTS))
    matrix, idf_h = _weigh(_count(filled))
    loadings_hk, spread_k = _decompose(matrix, rng)
    return _quantise(loadings_hk * idf_h[:, None] / np.maximum(spread_k, 1e-9) ** _WHITENING)


def _count(texts: Sequence[bytes]) -> Sparse:
    """Summed weights of each bucket of each text."""
    markers = marker_hashes()
    columns, values, start = [], [], np.zeros(len(texts) + 1, dtype=np.int64)
    for q, text in enumerate(texts):
        stream = text_stream(text, buckets=BUCKETS, markers=markers)
        bucket, place = np.unique(stream[:, 0], return_inverse=True)
        columns.append(bucket.astype(np.int32))
        values.append(np.bincount(place, stream[:, 1], len(bucket)).astype(np.float32))
        start[q + 1] = start[q] + len(bucket)
    return Sparse(start, np.concatenate(columns), np.concatenate(values), BUCKETS)


def _weigh(matrix: Sparse) -> tuple[Sparse, Floats]:
    """Times the inverse document frequency, every text of length 1; and those frequencies."""
    texts = len(matrix.start) - 1
    idf_h = np.log((1 + texts) / (1 + np.bincount(matrix.column, minlength=BUCKETS))) + 1.0
    value = matrix.value * idf_h[matrix.column]
    row = np.repeat(np.arange(texts), np.diff(matrix.start))
    length_q = np.sqrt(np.bincount(row, value**2, texts))
    return matrix._replace(value=(value / np.maximum(length_q, 1e-9)[row]).astype(np.float32)), idf_h


def _decompose(matrix: Sparse, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Right singular vectors (h, k) and spread of the texts along each (k,)."""
    width = min(LATENTS + _OVERSAMPLE, len(matrix.start) - 1)
    basis = rng.standard_normal((BUCKETS, width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = transposed_times(matrix, _orthonormal(times(matrix, basis)))
    left = _orthonormal(times(matrix, basis))
    _, singular, right = np.linalg.svd(transposed_times(matrix, left).T, full_matrices=False)
    loadings_hk, spread_k = np.zeros((BUCKETS, LATENTS)), np.ones(LATENTS)
    kept = min(LATENTS, width)
    loadings_hk[:, :kept] = right[:kept].T
    spread_k[:kept] = singular[:kept] / np.sqrt(len(left))
    # A direction without spread is noise of the arithmetic.
    loadings_hk[:, :kept] *= singular[:kept] > 1e-4 * singular[0]
    return loadings_hk, spread_k


def _orthonormal(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.linalg.qr(columns)[0], dtype=np.float32)


def _quantise(rows_hk: Floats) -> Encoder:
    size_hk = np.abs(rows_hk)
    top_k = np.maximum(np.quantile(size_hk, _CLIP, axis=0), size_hk.max(axis=0) / 8.0)
    scale_k = np.where(top_k > 0.0, top_k, 1.0) / MAX_ROW
    rows = np.clip(np.rint(rows_hk / scale_k), -MAX_ROW, MAX_ROW).astype(np.int16)
    return Encoder(rows, scale_k)
