"""The next bytes of a text that experts of different vocabularies write together: pure.

Each expert tells strings that the text may go on with, at the start of a round. Of the bytes chosen since then, what it
says of the next one is the share of its strings that go on so. The average over experts, by weight, chooses the byte.
The first one is always known. A later one is known as far as strings were told that reach beyond it: where one ends
there, or some were not told, it is bounded, and chosen only where that settles it. So the bytes are those that whole
distributions would give, and only how many are found in one round hangs on what was told.

A byte that is drawn is taken of what is known as often as that is probable; else the round ends, and the byte is drawn
of what the next one adds to that. So it follows the whole average, and nothing is favoured for being known earlier.

Shape letter: s symbols, every byte and then the end of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.types import Delta

Floats = NDArray[np.float64]

END = 256
SYMBOLS = END + 1
# What sums of probabilities are off by.
_DUST = 1e-9


@dataclass(frozen=True)
class Stand:
    """What one expert says of a text that goes on from some byte on.

    Args:
        strings: Told ones, from there on, and how probable.
        whole: How probable it is at most that the text goes on like this at all.
        first_s: Of the next symbol where that was told; None where the strings say it.
    """

    strings: tuple[tuple[bytes, float], ...]
    whole: float
    first_s: Floats | None = None

    @classmethod
    def of(cls, told: Delta) -> Stand:
        """At the start of a round.

        Raises:
            ValueError: Nothing was told.
        """
        if told.top_probabilities is None:
            raise ValueError("an expert told nothing")
        strings = tuple(zip(told.strings, map(float, told.top_probabilities), strict=False))
        first_s = np.zeros(SYMBOLS) if told.next_bytes is None else np.asarray(told.next_bytes, np.float64)
        if told.next_bytes is None:
            for string, probability in strings:
                first_s[string[0] if string else END] += probability
        whole = float(first_s.sum())
        if not whole > 0.0:
            raise ValueError("an expert told nothing")
        return cls(strings, whole, first_s)

    def next(self) -> tuple[Floats, float]:
        """Probabilities of the next symbol (s) as far as they are known, and of all that is not: they sum to 1."""
        if self.first_s is not None:
            return self.first_s / self.whole, 0.0
        known_s = np.zeros(SYMBOLS)
        if self.whole <= 0.0:
            return known_s, 1.0
        for string, probability in self.strings:
            if string:
                known_s[string[0]] += probability / self.whole
        return known_s, max(0.0, 1.0 - float(known_s.sum()))

    def after(self, byte: int) -> Stand:
        """The same one byte later."""
        kept = tuple((string[1:], probability) for string, probability in self.strings if string[:1] == bytes([byte]))
        told = sum(probability for _, probability in kept)
        if self.first_s is not None:
            return Stand(kept, max(told, float(self.first_s[byte])))
        untold = max(0.0, self.whole - sum(probability for _, probability in self.strings))
        return Stand(kept, told + untold)


class Draws:
    """One number for each byte of a text, uniform between 0 and 1.

    Args:
        seed: The same seed gives the same numbers.
        top_p: Of the most probable symbols that make up so much together one is drawn.
    """

    def __init__(self, seed: int, top_p: float = 1.0) -> None:
        self._random, self._top_p = np.random.Generator(np.random.PCG64(seed)), top_p
        self._uniforms: list[float] = []
        # The place that was left open last, and what was known of it.
        self._open: tuple[int, Floats] | None = None

    def choose(self, place: int, known_s: Floats, left: float) -> int | None:
        """The symbol that the place's number draws; None where what is not known leaves it open.

        Args:
            place: Bytes of the text before.
            known_s: Probabilities as far as they are known.
            left: Of all that is not known; with `known_s` it sums to 1.
        """
        uniform = self._uniform(place)
        if left <= _DUST:
            before_s = self._open[1] if self._open is not None and self._open[0] == place else np.zeros(SYMBOLS)
            return _drawn(_kept(known_s, self._top_p), before_s, uniform)
        if self._top_p < 1.0:
            # Which symbols are left out hangs on all of them.
            return None
        if uniform >= float(known_s.sum()):
            self._open = place, known_s
            return None
        return _drawn(known_s, np.zeros(SYMBOLS), uniform / float(known_s.sum()))

    def _uniform(self, place: int) -> float:
        while place >= len(self._uniforms):
            self._uniforms += self._random.random(256).tolist()
        return self._uniforms[place]


def _drawn(probability_s: Floats, before_s: Floats, uniform: float) -> int:
    """The symbol of what is probable beyond what was known before, which the number has passed already.

    Where an expert was lost in between, what was known may be more than is probable now, of this one byte.
    """
    passed = float(before_s.sum())
    below_s = np.cumsum(np.maximum(probability_s - before_s, 0.0))
    reached = (uniform - passed) / (1.0 - passed) * float(below_s[-1])
    symbol = int(np.searchsorted(below_s, reached, side="right"))
    return min(symbol, int(np.searchsorted(below_s, below_s[-1], side="left")))


def likeliest(_place: int, known_s: Floats, left: float) -> int | None:
    """The most probable symbol; None where what is not known leaves it open."""
    symbol = int(np.argmax(known_s))
    second = float(np.partition(known_s, -2)[-2])
    return symbol if left <= _DUST or float(known_s[symbol]) > second + left else None


def tells_bytes(told: Delta) -> bool:
    """Whether an expert told strings, and of what comes next anything at all."""
    if told.top_probabilities is None or not told.strings:
        return False
    return bool(told.top_probabilities[:-1].any() if told.next_bytes is None else told.next_bytes.any())


Choose = Callable[[int, Floats, float], int | None]


def next_piece(told: Sequence[Delta], weights: Sequence[float], place: int, choose: Choose) -> bytes:
    """The bytes that the average of the experts goes on with, one at least; none where the text ends.

    Args:
        told: By expert.
        weights: By expert; need not sum to 1.
        place: Bytes of the text so far.
        choose: Takes a symbol from probabilities.

    Raises:
        ValueError: An expert told nothing.
    """
    stands = [Stand.of(one) for one in told]
    share_e = np.asarray(weights, np.float64) / float(np.sum(weights))
    piece = b""
    while True:
        known = [stand.next() for stand in stands]
        averaged_s: Floats = sum(share * one_s for share, (one_s, _) in zip(share_e, known, strict=True))
        left = float(sum(share * one for share, (_, one) in zip(share_e, known, strict=True)))
        symbol = choose(place + len(piece), averaged_s, left)
        if symbol is None or symbol == END:
            return piece
        piece += bytes([symbol])
        stands = [stand.after(symbol) for stand in stands]


def _kept(probability_s: Floats, top_p: float) -> Floats:
    """The fewest most probable symbols that make up `top_p` together; the rest is 0."""
    if top_p >= 1.0:
        return probability_s
    order_s = np.argsort(-probability_s, kind="stable")
    before_s = np.cumsum(probability_s[order_s]) - probability_s[order_s]
    count = max(1, int(np.searchsorted(before_s, top_p, side="left")))
    kept_s = np.zeros_like(probability_s)
    kept_s[order_s[:count]] = probability_s[order_s[:count]]
    kept_s /= kept_s.sum()
    return kept_s
