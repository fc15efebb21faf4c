"""The compiled reading of texts is the reference's, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.gate import reference
from optimizer.native.text_gate import MAX_ROW, Arrays, Scorer, text_features, text_stream
from tests.optimizer.gate.needed import needs_native

BUCKETS, LATENTS = 1 << 12, 32
_RNG = np.random.default_rng(0)
ARRAYS = Arrays(
    _RNG.integers(-MAX_ROW, MAX_ROW + 1, (BUCKETS, LATENTS)).astype(np.int16),
    _RNG.random(LATENTS),
    reference.marker_hashes(),
)
# Pieces that meet the rules of reading at their edges, beside arbitrary bytes.
_ASCII = (b"", b"\0", b" ", b"A) ", b"(B) why", b"12.5%", b"def f():\n  return 0", b"$x^2$", b"What?", b"word" * 5)
_WIDE = ("é".encode(), "中文".encode(), b"\xe4\xb8", b"\xff", b"\xc3", b"\xf0\x9f\x98\x80", b"\x7f\t\r\n")
PIECES = st.sampled_from((*_ASCII, *_WIDE))
TEXTS = st.one_of(
    st.binary(max_size=300), st.lists(PIECES, max_size=20).map(b"".join), st.text(max_size=80).map(str.encode)
)


def test_hashes_are_those_of_the_published_functions() -> None:
    assert reference.fnv1a(b"") == 0x811C9DC5
    assert reference.fnv1a(b"a") == 0xE40C292C
    assert reference.fnv1a(b"foobar") == 0xBF9CF968
    assert reference.mixed(1) == 0x514E28B7


def test_the_reading_of_a_text_never_changes() -> None:
    # A trained gate is a table of rows by bucket: another reading would make every saved gate wrong in silence.
    words = [(1037, -64), (3937, 64), (3973, -64)]
    assert reference.stream(b"Ab 1", 4096) == [*words, (3733, -64), (3673, -64), (1762, 64)]
    assert reference.normalise(b"  Ab\t12\0x ") == b" ab 00 x "
    found = [token.text for token in reference.tokens(reference.normalise("(A) été 7中".encode()))]
    assert found == [b"(", b"a", b")", "été".encode(), b"0", "中".encode()]


@needs_native
@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_compiled_and_reference_agree_to_the_last_bit(text: bytes) -> None:
    stream = text_stream(text, buckets=BUCKETS, markers=ARRAYS.markers)
    assert [tuple(entry) for entry in stream.tolist()] == reference.stream(text, BUCKETS)
    (feature_f,) = text_features([text], ARRAYS, structure=reference.STRUCTURE)
    np.testing.assert_array_equal(feature_f[:LATENTS], reference.latents(text, ARRAYS.rows_hk, ARRAYS.scale_k))
    np.testing.assert_array_equal(feature_f[LATENTS:], reference.structure(text))


@needs_native
@settings(max_examples=50, deadline=None)
@given(TEXTS, st.integers(1, 9), st.integers(0, 2))
def test_one_call_gives_what_the_reference_gives(text: bytes, experts: int, task: int) -> None:
    rng = np.random.default_rng(experts)
    weights_tfe = rng.normal(0, 0.1, (3, LATENTS + reference.STRUCTURE, experts))
    bias_te = rng.random((3, experts))
    (feature_f,) = text_features([text], ARRAYS, structure=reference.STRUCTURE)
    expected_e = reference.quality(feature_f, weights_tfe[task], bias_te[task])
    np.testing.assert_array_equal(Scorer(ARRAYS, weights_tfe, bias_te)(text, task), expected_e)


@needs_native
@pytest.mark.parametrize("text", [b"x" * 1_000_000, b"ab " * 400_000, "中".encode() * 300_000])
def test_a_long_text_is_read_as_far_as_the_prefix(text: bytes) -> None:
    cut = text[: reference.PREFIX_BYTES]
    long_f, cut_f = text_features([text, cut], ARRAYS, structure=reference.STRUCTURE)
    np.testing.assert_array_equal(long_f[:LATENTS], cut_f[:LATENTS])
    # Only the count of bytes knows how long it was.
    assert np.flatnonzero(long_f != cut_f).tolist() == [LATENTS]
    np.testing.assert_array_equal(long_f[LATENTS:], reference.structure(text))


@needs_native
def test_nothing_is_no_direction() -> None:
    (feature_f,) = text_features([b""], ARRAYS, structure=reference.STRUCTURE)
    assert not feature_f[:LATENTS].any()
    assert np.isfinite(feature_f).all()


@needs_native
def test_the_worst_text_cannot_overflow_a_sum() -> None:
    # Every row at its limit with the sign of its bucket's hash: the largest sum that any text can make.
    rng = np.random.default_rng(3)
    text = bytes(rng.integers(33, 127, reference.PREFIX_BYTES).astype(np.uint8))
    most = sum(abs(weight) for _, weight in reference.stream(text, BUCKETS)) * MAX_ROW
    assert most < 2**31
    rows = np.full((BUCKETS, LATENTS), MAX_ROW, dtype=np.int16)
    arrays = Arrays(rows, np.ones(LATENTS), ARRAYS.markers)
    (feature_f,) = text_features([text], arrays, structure=reference.STRUCTURE)
    np.testing.assert_array_equal(feature_f[:LATENTS], reference.latents(text, rows, np.ones(LATENTS)))
