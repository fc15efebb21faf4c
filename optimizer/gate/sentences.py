"""What a sentence encoder from outside adds to the gate's features: its embeddings, drawn together.

The encoder itself is a callable that comes in as an argument; here is only what is learnt about its embeddings, without
labels: their mean and the few directions in which they differ most.

Shape letters: q texts, s width of an embedding, p latents kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError

Floats = NDArray[np.float64]

# Sums that a head needs grow with the square of the features, and their solution with the cube.
LATENTS = 64
# Texts that the directions are learnt from, as for the hashed encoder.
_SAMPLE = 3_000
# A direction this much weaker than the strongest is noise of the arithmetic.
_WEAKEST = 1e-4


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder from outside.

    Args:
        encode: Texts to embeddings, (q, s); the same text always gives the same row.
        digests: What identifies it; a gate that was trained with one takes no other.
    """

    encode: Callable[[Sequence[str]], Floats]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Sentences:
    """An encoder from outside and how its embeddings become features.

    Args:
        encoder: Texts to embeddings.
        centre_s: Taken off every embedding.
        loadings_sp: Directions, scaled so that squares of a text's latents sum to about 1.
    """

    encoder: SentenceEncoder
    centre_s: Floats
    loadings_sp: Floats

    @property
    def features(self) -> int:
        """Number of features of a text."""
        return int(self.loadings_sp.shape[1])

    def latents(self, texts: Sequence[str]) -> Floats:
        """Features of texts, (q, p).

        Raises:
            EvidenceError: The encoder's embeddings are not finite or of another width than those learnt from.

        Cost: that of the encoder, usually milliseconds per text.
        """
        raw_qs = _embeddings(self.encoder, texts)
        if raw_qs.shape[1] != len(self.centre_s):
            raise EvidenceError(f"Embeddings have {raw_qs.shape[1]} numbers; the gate knows {len(self.centre_s)}.")
        return np.asarray((raw_qs - self.centre_s) @ self.loadings_sp)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays that `from_arrays` takes."""
        digests = np.array(self.encoder.digests, dtype=np.str_)
        loadings = {"sentence_centre_s": self.centre_s, "sentence_loadings_sp": self.loadings_sp}
        return {"sentence_digests": digests, **loadings}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], encoder: SentenceEncoder) -> Sentences:
        """What was learnt about an encoder, from arrays.

        Raises:
            EvidenceError: They were learnt about another encoder, or do not fit together.
        """
        if digests_of(arrays) != encoder.digests:
            raise EvidenceError("The gate was trained with another sentence encoder.")
        centre_s = np.asarray(arrays["sentence_centre_s"], dtype=np.float64)
        loadings_sp = np.asarray(arrays["sentence_loadings_sp"], dtype=np.float64)
        fits = loadings_sp.ndim == 2 and centre_s.shape == loadings_sp.shape[:1]
        if not fits or not np.isfinite(loadings_sp).all() or not np.isfinite(centre_s).all():
            raise EvidenceError("What the gate knows about its sentence encoder does not fit together.")
        return cls(encoder, centre_s, loadings_sp)


def digests_of(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[str, ...]:
    """Digests of the encoder that a gate's arrays were trained with; empty where there was none."""
    return tuple(map(str, arrays["sentence_digests"].tolist())) if "sentence_digests" in arrays else ()


def fit_sentences(encoder: SentenceEncoder, texts: Sequence[str], *, seed: int = 0) -> Sentences:
    """Learn an encoder's mean and main directions from texts alone.

    Args:
        encoder: The encoder.
        texts: At most 3,000 of them, drawn by seed, are read; at least one.
        seed: Of the sample.

    Raises:
        EvidenceError: No text, or embeddings that are not finite numbers of shape (q, s).
    """
    kept = [*texts]
    if len(kept) > _SAMPLE:
        places = np.random.default_rng(seed).choice(len(kept), _SAMPLE, replace=False)
        kept = [kept[q] for q in np.sort(places)]
    raw_qs = _embeddings(encoder, kept)
    centre_s = raw_qs.mean(axis=0)
    _, spread_p, right_ps = np.linalg.svd(raw_qs - centre_s, full_matrices=False)
    directions = np.flatnonzero(spread_p > max(_WEAKEST * spread_p[0], 1e-9))[:LATENTS]
    length = np.sqrt((spread_p[directions] ** 2).sum() / len(kept))
    return Sentences(encoder, centre_s, right_ps[directions].T / max(length, 1e-9))


def _embeddings(encoder: SentenceEncoder, texts: Sequence[str]) -> Floats:
    raw_qs = np.asarray(encoder.encode(texts), dtype=np.float64)
    if raw_qs.ndim != 2 or len(raw_qs) != len(texts) or not raw_qs.size or not np.isfinite(raw_qs).all():
        raise EvidenceError("A sentence encoder must give one row of finite numbers per text.")
    return raw_qs
