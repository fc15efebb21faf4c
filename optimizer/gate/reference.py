"""What `optimizer/native/text_gate.c` computes, in plain Python: the meaning of the text features, and their test.

A text is its UTF-8 bytes. The first `PREFIX_BYTES` are read, normalised (lower case, every digit 0, blanks merged),
cut into tokens, and hashed: every token, every pair of neighbouring tokens, and every run of 4 bytes. The hash is
FNV-1a (32 bits) followed by the finaliser of MurmurHash3; its low bits name a bucket and its top bit a sign. The c-th
time a bucket is met it weighs 64 // c, so that a count weighs about 1 + its logarithm. The encoder adds up, as
integers, weight × the row of the bucket; what comes out is scaled, normalised to length 1, and followed by a few
counts of what the text looks like.

Shape letters: k latents, s structure features, h buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PREFIX_BYTES = 4096
WEIGHT = 64
_BASIS = 2166136261
_PRIME = 16777619
_GRAM_BASIS = _BASIS ^ 0x5BD1E995
_PAIR = 0x9E3779B1
_MASK = 0xFFFFFFFF
_GRAM = 4
_MARKER_BYTES = 12

# Words whose presence says what kind of question it is.
MARKERS = (
    *("what", "which", "who", "when", "where", "why", "how", "many"),
    *("not", "true", "false", "all", "find", "prove", "write", "function"),
    *("return", "def", "code", "each", "following", "except", "correct", "if"),
)
COUNTS = (
    *("bytes", "words", "digits", "upper", "maths", "dollars", "questions"),
    *("newlines", "stops", "brackets", "pairs", "wides", "options", "numbers"),
)
RATIOS = ("digits", "upper", "maths", "newlines", "stops", "brackets", "pairs", "wides")
STRUCTURE = len(COUNTS) + len(RATIOS) + 1 + len(MARKERS)
# Which sign counts as what; the first class that has it takes it.
_CLASSES = {"dollars": b"$", "questions": b"?", "newlines": b"\n", "maths": b"+-*/=^<>\\_|~%"}
_CLASSES |= {"stops": b".,;:!'\"", "brackets": b"()[]{}"}


class Token(NamedTuple):
    """A piece of normalised text and whether it is a word."""

    text: bytes
    is_word: bool


def fnv1a(data: bytes, basis: int = _BASIS) -> int:
    """FNV-1a of bytes, 32 bits."""
    for byte in data:
        basis = ((basis ^ byte) * _PRIME) & _MASK
    return basis


def mixed(h: int) -> int:
    """The finaliser of MurmurHash3: every bit of the hash reaches every bit."""
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & _MASK
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def marker_hashes() -> NDArray[np.uint32]:
    """Hash of each word of `MARKERS`, as the compiled code compares them."""
    return np.array([fnv1a(word.encode()) for word in MARKERS], dtype=np.uint32)


def normalise(text: bytes) -> bytes:
    """Lower case, every digit 0, every run of blanks one blank, one blank at either end."""
    out = bytearray(b" ")
    for c in text:
        if c <= 0x20 or c == 0x7F:
            if out[-1] != 0x20:
                out.append(0x20)
        elif 0x30 <= c <= 0x39:
            out.append(0x30)
        else:
            out.append(c + 32 if 0x41 <= c <= 0x5A else c)
    return bytes(out if out[-1] == 0x20 else out + b" ")


def sequence(text: bytes, at: int) -> int:
    """Length of the UTF-8 sequence that starts here; 1 where it is none, so that any bytes can be read."""
    c = text[at]
    length = 4 if 0xF0 <= c <= 0xF4 else 3 if 0xE0 <= c <= 0xEF else 2 if 0xC2 <= c <= 0xDF else 1
    tail = text[at + 1 : at + length]
    return length if len(tail) == length - 1 and all(byte & 0xC0 == 0x80 for byte in tail) else 1


def tokens(normal: bytes) -> Iterator[Token]:
    """Words are runs of letters, digits and two-byte sequences; every other sign is a token of its own."""
    at = 0
    while at < len(normal):
        start, length = at, sequence(normal, at)
        at += length
        if normal[start] == 0x20:
            continue
        word = _is_word(normal[start]) or length == 2
        while word and at < len(normal) and (_is_word(normal[at]) or sequence(normal, at) == 2):
            at += sequence(normal, at)
        yield Token(normal[start:at], word)


def grams(normal: bytes) -> Iterator[bytes]:
    """Every run of 4 bytes."""
    yield from (normal[at : at + _GRAM] for at in range(len(normal) - _GRAM + 1))


def stream(text: bytes, buckets: int) -> list[tuple[int, int]]:
    """Bucket and weight of every n-gram, in order. `buckets` is a power of two."""
    seen = [0] * buckets
    out = []
    for h in map(mixed, _hashes(normalise(text[:PREFIX_BYTES]))):
        bucket = h & (buckets - 1)
        if seen[bucket] < WEIGHT:
            seen[bucket] += 1
            weight = WEIGHT // seen[bucket]
            out.append((bucket, -weight if h >> 31 else weight))
    return out


def latents(text: bytes, rows_hk: NDArray[np.int16], scale_k: Floats) -> Floats:
    """Sum of the rows, scaled, of length 1; zeros where there is nothing."""
    sum_k = np.zeros(rows_hk.shape[1], dtype=np.int64)
    for bucket, weight in stream(text, len(rows_hk)):
        sum_k += weight * rows_hk[bucket].astype(np.int64)
    out_k = sum_k.astype(np.float64) * scale_k
    square = 0.0
    for value in out_k.tolist():
        square += value * value
    return np.asarray(out_k / (math.sqrt(square) if square > 0.0 else 1.0))


def structure(text: bytes) -> Floats:
    """What the text looks like, (s,): logarithms of `COUNTS`, shares of `RATIOS`, bytes per word, `MARKERS`."""
    prefix = text[:PREFIX_BYTES]
    found = [*tokens(normalise(prefix))]
    count = _count_bytes(prefix)
    count["bytes"], count["words"] = len(text), sum(token.is_word for token in found)
    for token in found:
        _count_wide(token.text, count)
    words = {token.text for token in found if token.is_word and len(token.text) < _MARKER_BYTES}
    shares = [count[name] / (len(prefix) + 1) for name in RATIOS]
    logs = [math.log1p(count[name]) for name in COUNTS]
    flags = [float(word.encode() in words) for word in MARKERS]
    return np.array([*logs, *shares, len(prefix) / (count["words"] + 1) / 16.0, *flags])


def quality(feature_f: Floats, weights_fe: Floats, bias_e: Floats) -> Floats:
    """Quality of each expert, (e,): features added in order, then kept within 0 and 1."""
    out_e = bias_e.copy()
    for feature, weights_e in zip(feature_f, weights_fe, strict=True):
        out_e += feature * weights_e
    return np.clip(out_e, 0.0, 1.0)


def _is_word(c: int) -> bool:
    return 0x61 <= c <= 0x7A or c == 0x30


def _hashes(normal: bytes) -> Iterator[int]:
    words = [fnv1a(token.text) for token in tokens(normal)]
    if words:
        yield words[0]
    for previous, h in pairwise(words):
        yield h
        if previous:
            yield ((previous * _PAIR) & _MASK) ^ h
    yield from (fnv1a(gram, _GRAM_BASIS) for gram in grams(normal))


def _count_bytes(text: bytes) -> dict[str, int]:
    count = dict.fromkeys(COUNTS, 0)
    for at, c in enumerate(text):
        before, after = (text[at - 1] if at else 0x20), (text[at + 1] if at + 1 < len(text) else 0x20)
        if 0x30 <= c <= 0x39:
            count["digits"] += 1
            count["numbers"] += not 0x30 <= before <= 0x39
        elif 0x41 <= c <= 0x5A:
            count["upper"] += 1
            count["options"] += c <= 0x4A and not _is_alnum(before) and after in b").:"
        else:
            name = next((name for name, signs in _CLASSES.items() if c in signs), None)
            if name:
                count[name] += 1
    return count


def _count_wide(token: bytes, count: dict[str, int]) -> None:
    at = 0
    while at < len(token):
        length = sequence(token, at)
        count["pairs"] += length == 2
        count["wides"] += length > 2
        at += length


def _is_alnum(c: int) -> bool:
    return 0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A
