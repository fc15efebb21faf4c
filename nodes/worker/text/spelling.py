"""One expert's part of a text that experts of other vocabularies write too: it hears bytes and tells strings.

The text so far is cut into tokens as this expert's tokenizer cuts it. Keys and values of what the cut has in common
with the one before stay, the rest is read anew, in one call. What may come next is told as strings: those of every
token that reaches beyond the end of the text, wherever it begins. A text that ends in "Mar" may have read three letters
and go on with any token, or be in the middle of " March": the latter's tokens before are read already, so that it costs
nothing to count both, each by the probability that the expert gave it (healing). Not counted are ways to cut the text
that differ from the tokenizer's before the newest token.

Shapes: v vocabulary, c candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.lexicon import lexicon_of
from nodes.worker.text.mixing import Counts
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Floats, most_probable, probabilities
from nodes.worker.text.tokens import END

END_SYMBOL = 256
SYMBOLS = END_SYMBOL + 1
# What has less of the probability is left out, be it a way to cut the text, which then is not read, or all that is not
# among the most probable strings: half precision would hardly tell it apart.
NEGLIGIBLE = 2.0**-10
# A longer string is told as far as that: what follows is told when it is there, as behind the end of any token.
MOST_BYTES = 256
# Of a token that others chose, however improbable: the text must go on.
_LEAST_LOG = -690.0


@dataclass(frozen=True)
class Spelled:
    """What a text may go on with.

    Attributes:
        strings: The most probable ones; an empty one is the end of the text. None where the expert's scores are no
            numbers, or where it can say nothing but a mark: whoever writes then goes on without it.
        probabilities: Theirs, then that of all others together.
        next_bytes: Where others are left: of every next byte, then of the end.
        read_tokens: Tokens of the text that were read for this.
    """

    strings: tuple[bytes, ...]
    probabilities: NDArray[np.float16]
    next_bytes: NDArray[np.float16] | None
    read_tokens: int


@dataclass(frozen=True)
class Cover:
    """What the expert says behind some of its tokens: its newest one begins there, and has spelled `start` already.

    Attributes:
        log_share: How probable the tokens before are, from the first cover on.
        places: Strings of the lexicon that go on from there.
        candidate_c: How probable their tokens are.
        end: How probable the end of the text is; 0 within a token.
    """

    start: bytes
    log_share: float
    places: slice
    candidate_c: Floats
    end: float

    @property
    def log_weight(self) -> float:
        """Of all that goes on from here."""
        whole = float(self.candidate_c.sum()) + self.end
        return self.log_share + math.log(whole) if whole > 0.0 else -math.inf

    def factor(self, top: float) -> float:
        """By what probabilities behind this cover count, where the largest weight counts as 1."""
        return math.exp(min(self.log_share - top, -_LEAST_LOG))


class Spelling:
    """One expert's place in such a text.

    Args:
        place: The model and its cache, which nobody else changes.
        prompt: Token ids before the text.
        temperature: At which the expert's tokens are probable; 0 as 1.
        counts: What the text takes, counted on.
        healing: False takes the newest token for complete; for the control experiments of the tests.
    """

    def __init__(
        self,
        place: tuple[LanguageModel, Cache],
        prompt: Sequence[int],
        *,
        temperature: float,
        counts: Counts,
        healing: bool = True,
    ) -> None:
        self._model, self._cache = place
        self._tokenizer = self._model.tokenizer
        self._lexicon = lexicon_of(self._tokenizer)
        self._prompt = list(prompt)
        self._temperature = temperature or 1.0
        self._counts = counts
        self._reach = self._lexicon.longest if healing else 1
        self._data = b""
        self._cut: list[int] = []
        # Bytes and tokens from the front that no longer change.
        self._settled = 0, 0
        # What comes behind so many tokens of the cut.
        self._next_v: dict[int, Floats] = {}
        self._missing = 0
        self._read_tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens of the text as it is cut now."""
        return len(self._cut)

    def hear(self, data: bytes) -> None:
        """The text goes on."""
        self._data += data
        settled_bytes, settled = self._settled
        fresh = self._tokenizer.encode_bytes(self._data[settled_bytes:])
        kept = settled + _common(fresh, self._cut[settled:])
        self._cut[settled:] = fresh
        self._settle()
        self._cache.cut(len(self._prompt) + kept)
        first = self._places()[0][0]
        self._next_v = {place: known_v for place, known_v in self._next_v.items() if first <= place <= kept}

    def _settle(self) -> None:
        """Note how much of the cut will stay as it is: only what is behind is cut anew when the text goes on."""
        seam, place, end = self._tokenizer.seam(self._data, self._settled[0]), len(self._cut), len(self._data)
        while end > seam:
            place -= 1
            end -= len(self._tokenizer.token_bytes(self._cut[place]))
        self._settled = seam, place

    def plan(self) -> tuple[LanguageModel, Row] | None:
        """What must run to know what comes next; None where it is known."""
        covers, log_share, self._missing = self._covers()
        self._read_tokens = 0
        if self._missing > len(self._cut) or _negligible(covers, log_share):
            return None
        prompt = len(self._prompt)
        # Scores come behind tokens that are read, so the one before is read again where it has been.
        self._cache.cut(prompt + self._missing - 1)
        begin = self._cache.tokens
        tokens = (self._prompt + self._cut)[begin:]
        self._read_tokens = len(self._cut) - max(0, begin - prompt)
        self._counts.calls += 1
        self._counts.macs += self._model.macs(begin, len(tokens))
        self._counts.caught_up_tokens += max(0, self._read_tokens - 1)
        return self._model, Row(self._cache, tokens, scored=len(self._cut) - self._missing + 1)

    def advance(self, scores: NDArray[np.floating]) -> None:
        """Take the scores of the planned row, (v) or (scored, v)."""
        for place, logits_v in enumerate(np.atleast_2d(scores), start=self._missing):
            self._next_v[place] = probabilities(logits_v, self._temperature)

    def tell(self, count: int, *, ends: bool) -> Spelled:
        """What the text may go on with, at most so many strings; its end only where it may.

        Cost: a pass over the vocabulary, and less for each further cover.
        """
        found: dict[bytes, float] = {}
        symbols = np.zeros(SYMBOLS)
        covers = self._covers()[0]
        top = max((cover.log_weight for cover in covers), default=0.0)
        for cover in covers:
            probability_c = cover.candidate_c * cover.factor(top)
            skip = len(cover.start)
            np.add.at(symbols, self._lexicon.bytes_at(cover.places, skip), probability_c)
            for candidate in most_probable(probability_c, count):
                string = self._lexicon.strings[cover.places.start + candidate][skip : skip + MOST_BYTES]
                found[string] = found.get(string, 0.0) + float(probability_c[candidate])
        if ends and covers and covers[-1].start == b"":
            found[b""] = symbols[END_SYMBOL] = covers[-1].factor(top) * covers[-1].end
        return self._told(found, symbols, count)

    def _told(self, found: dict[bytes, float], symbols: Floats, count: int) -> Spelled:
        # Of nothing but an end that must not come yet nothing is told.
        total = float(symbols.sum()) or 1.0
        strings = sorted(found, key=lambda string: (-found[string], string))[:count]
        told = np.array([found[string] for string in strings]) / total
        rest = max(0.0, 1.0 - float(told.sum()))
        next_bytes = (symbols / total).astype(np.float16) if rest > NEGLIGIBLE else None
        return Spelled(tuple(strings), np.append(told, rest).astype(np.float16), next_bytes, self._read_tokens)

    def _covers(self) -> tuple[list[Cover], float, int]:
        """Every cover that is known and has candidates, from the earliest on; of the first that is not known the
        logarithm of its share, and its place, which is behind the cut where all are known."""
        found: list[Cover] = []
        log_share = 0.0
        for place, begin in self._places():
            known_v = self._next_v.get(place)
            if known_v is None:
                return found, log_share, place
            start = self._data[begin:]
            places = self._lexicon.beyond(start)
            end = float(known_v[END]) if not start else 0.0
            cover = Cover(start, log_share, places, known_v[self._lexicon.id_s[places]], end)
            if cover.log_weight > -math.inf:
                found.append(cover)
            if place < len(self._cut):
                log_share += _log(float(known_v[self._cut[place]]))
        return found, -math.inf, len(self._cut) + 1

    def _places(self) -> list[tuple[int, int]]:
        """Where a token may begin that reaches beyond the end: tokens and bytes before it, the earliest first."""
        place, begin = len(self._cut), len(self._data)
        found = [(place, begin)]
        while place:
            place -= 1
            begin -= len(self._tokenizer.token_bytes(self._cut[place]))
            if len(self._data) - begin >= self._reach:
                break
            found.append((place, begin))
        return found[::-1]


def _negligible(covers: Sequence[Cover], log_share: float) -> bool:
    """Whether what is not read yet, of such a share, hardly counts beside what is."""
    top = max((cover.log_weight for cover in covers), default=-math.inf)
    return log_share - top <= math.log(NEGLIGIBLE)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many of the same both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (first, second) in pairs if first != second), min(len(one), len(other)))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0.0 else _LEAST_LOG
