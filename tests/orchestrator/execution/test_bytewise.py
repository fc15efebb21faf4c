"""Bytes of an average: those that whole distributions give, however little of them is told at once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from orchestrator.execution.bytewise import END, SYMBOLS, Choose, Draws, likeliest, next_piece, tells_bytes
from orchestrator.types import Delta

Floats = NDArray[np.float64]
ALPHABET = b"abc"
LONGEST = 3
STRINGS = tuple(bytes(one) for size in range(1, LONGEST + 1) for one in itertools.product(ALPHABET, repeat=size))
# How often a string goes on to one more letter.
ON = 0.7
WEIGHTS = (0.6, 0.4)
EVERYTHING = len(STRINGS) + 1


@cache
def next_of(expert: int, text: bytes) -> Floats:
    """What an expert says of the next symbol (s), by the two letters before."""
    rng = np.random.default_rng([expert, len(text) > 0, *text[-2:]])
    found_s = np.zeros(SYMBOLS)
    found_s[[*ALPHABET, END]] = rng.dirichlet((1.0, 1.0, 1.0, 0.3))
    return found_s


@cache
def tell(expert: int, text: bytes, count: int) -> Delta:
    """The same in strings of one to three letters, which stop anywhere and always before the end of the text."""
    told = {b"": float(next_of(expert, text)[END])}
    for string in STRINGS:
        goes = [float(next_of(expert, text + string[:place])[byte]) for place, byte in enumerate(string)]
        stops = 1.0 if len(string) == LONGEST else 1.0 - ON + ON * float(next_of(expert, text + string)[END])
        told[string] = float(np.prod(goes)) * ON ** (len(string) - 1) * stops
    best = sorted(told, key=lambda one: -told[one])[:count]
    probabilities = np.array([told[one] for one in best])
    rest = max(0.0, 1.0 - float(probabilities.sum()))
    next_bytes = next_of(expert, text) if count < EVERYTHING else None
    tops = np.append(probabilities, rest)
    return Delta(0, "", (), top_probabilities=tops, strings=tuple(best), next_bytes=next_bytes)


def write(choose: Choose, count: int, *, length: int = 12, weights: Sequence[float] = WEIGHTS) -> tuple[bytes, int]:
    """A text of at most so many letters, "." for its end, and its rounds."""
    text, rounds = b"", 0
    while len(text) < length:
        piece = next_piece([tell(expert, text, count) for expert in range(2)], weights, len(text), choose)
        rounds += 1
        if not piece:
            return text + b".", rounds
        text += piece
    return text[:length], rounds


def by_one(choose: Choose, *, length: int = 12) -> bytes:
    """The text of the definition: symbol by symbol from the whole average."""
    text = b""
    while len(text) < length:
        averaged_s = sum(weight * next_of(expert, text) for expert, weight in enumerate(WEIGHTS))
        symbol = choose(len(text), np.asarray(averaged_s), 0.0)
        assert symbol is not None
        if symbol == END:
            return text + b"."
        text += bytes([symbol])
    return text


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5, 12, EVERYTHING]), st.sampled_from([0.9, 0.5]))
def test_with_top_p_every_byte_is_that_of_the_whole_average(seed: int, count: int, top_p: float) -> None:
    assert write(Draws(seed, top_p).choose, count)[0] == by_one(Draws(seed, top_p).choose)


@pytest.mark.parametrize("count", [1, 2, 5, 12, EVERYTHING])
def test_greedy_bytes_are_those_of_the_whole_average(count: int) -> None:
    assert write(likeliest, count)[0] == by_one(likeliest)


def test_the_more_is_told_the_fewer_rounds_are_needed() -> None:
    rounds = [sum(write(Draws(seed).choose, count)[1] for seed in range(60)) for count in (1, 12, EVERYTHING)]
    letters = sum(len(write(Draws(seed).choose, 1)[0]) for seed in range(60))
    assert letters >= rounds[0] > rounds[1] > rounds[2]


def guessing(seed: int) -> Choose:
    """Draws from what is known alone, as if the rest were like it."""
    draws = Draws(seed)

    def choose(place: int, known_s: Floats, left: float) -> int | None:
        return draws.choose(place, known_s / known_s.sum(), 0.0) if left < 0.9 else None

    return choose


SEEDS, FIRST = range(1_000_003, 1_004_003), 3


def expected() -> dict[bytes, float]:
    """Probabilities of the first letters of a text by the definition."""
    found = {b"": 1.0}
    for _ in range(FIRST):
        grown: dict[bytes, float] = {}
        for text, probability in found.items():
            if text.endswith(b"."):
                grown[text] = probability
                continue
            averaged_s = sum(weight * next_of(expert, text) for expert, weight in enumerate(WEIGHTS))
            for symbol in np.flatnonzero(averaged_s):
                more = b"." if symbol == END else bytes([int(symbol)])
                grown[text + more] = probability * float(np.asarray(averaged_s)[symbol])
        found = grown
    return found


def p_value(texts: Sequence[bytes]) -> float:
    counts, wanted = Counter(texts), expected()
    assert set(counts) <= set(wanted)
    often = [text for text, probability in wanted.items() if probability * len(texts) >= 5.0]
    observed = [*(counts[text] for text in often), sum(counts[text] for text in wanted if text not in often)]
    hoped = [*(wanted[text] for text in often), sum(wanted[text] for text in wanted if text not in often)]
    scaled = np.array(hoped) / np.sum(hoped) * len(texts)
    return float(stats.chisquare(np.array(observed)[scaled > 0], scaled[scaled > 0]).pvalue)


@pytest.mark.parametrize("count", [3, 12, EVERYTHING])
def test_drawn_texts_follow_the_definition(count: int) -> None:
    assert p_value([write(Draws(seed).choose, count, length=FIRST)[0] for seed in SEEDS]) > 0.01


def test_weights_that_are_off_and_what_is_open_taken_for_known_are_noticed() -> None:
    other = [write(Draws(seed).choose, 12, length=FIRST, weights=(0.52, 0.48))[0] for seed in SEEDS]
    assert p_value(other) < 1e-3
    assert p_value([write(guessing(seed), EVERYTHING, length=FIRST)[0] for seed in SEEDS]) < 1e-3


# ---- single choices


def said(strings: dict[bytes, float], next_bytes: dict[int, float] | None = None) -> Delta:
    probabilities = np.array([*strings.values(), max(0.0, 1.0 - sum(strings.values()))])
    next_s = None
    if next_bytes is not None:
        next_s = np.zeros(SYMBOLS)
        next_s[list(next_bytes)] = list(next_bytes.values())
    return Delta(0, "", (), top_probabilities=probabilities, strings=tuple(strings), next_bytes=next_s)


def greedily(told: Sequence[Delta], weights: Sequence[float] = (0.5, 0.5)) -> bytes:
    return next_piece(told, weights, 0, likeliest)


def test_a_round_ends_where_a_token_ends_and_that_matters() -> None:
    march, letter = said({b" March": 0.9, b" May": 0.1}), said({b" ": 0.9, b"x": 0.1})
    assert greedily([march, march]) == b" March"
    assert greedily([march, letter]) == b" ", "the other has yet to say what follows the space"
    assert greedily([march, letter], (0.9, 0.1)) == b" March", "it has too little weight to matter"


def test_what_was_not_told_ends_a_round_unless_the_next_byte_bounds_it() -> None:
    cut = said({b"ab": 0.3}, {97: 0.9, 98: 0.1})
    assert greedily([cut], [1.0]) == b"a", "of what follows a third is known"
    sure = said({b"ab": 0.3}, {97: 0.3, 98: 0.3, 99: 0.2, 100: 0.2})
    assert greedily([sure], [1.0]) == b"ab", "all that begins with it was told"


def test_a_close_second_must_not_win_by_what_is_not_known() -> None:
    known_s = np.zeros(SYMBOLS)
    known_s[[97, 98]] = 0.5, 0.4
    assert likeliest(0, known_s, 0.1) is None, "all of it may be the second's"
    known_s[98] = 0.38
    assert likeliest(0, known_s, 0.1) == 97, "the rest is somebody's third"
    close = said({b"ab": 0.45, b"ac": 0.4, b"a": 0.15})
    assert greedily([close], [1.0]) == b"a", "behind its third token anything may follow"


def test_the_end_is_a_symbol_of_its_own() -> None:
    assert greedily([said({b"": 0.6, b"a": 0.4}), said({b"a": 0.9, b"": 0.1})]) == b"a"
    assert greedily([said({b"": 0.9, b"a": 0.1}), said({b"a": 0.6, b"": 0.4})]) == b""


def test_top_p_leaves_the_improbable_out() -> None:
    told = [said({b"a": 0.5, b"b": 0.3, b"c": 0.2})]
    found = {next_piece(told, [1.0], 0, Draws(seed, 0.6).choose) for seed in range(200)}
    assert found == {b"a", b"b"}
    assert {next_piece(told, [1.0], 0, Draws(seed).choose) for seed in range(200)} == {b"a", b"b", b"c"}


def test_an_expert_that_told_nothing_is_a_fault() -> None:
    for nothing in (Delta(0, "", ()), said({b"a": 0.0}), said({b"a": 0.1}, {97: 0.0})):
        assert not tells_bytes(nothing)
        with pytest.raises(ValueError, match="told nothing"):
            greedily([nothing], [1.0])
    assert tells_bytes(said({b"a": 0.1}, {97: 0.1}))
