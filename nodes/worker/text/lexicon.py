"""A vocabulary in the order of its strings: which tokens begin with one. Shapes: s strings, n bytes of the longest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.tokens import Tokenizer


class Lexicon:
    """The strings of a vocabulary; marks have none.

    Args:
        tokenizer: Whose they are.

    Attributes:
        strings: In order, as often as there are tokens of them.
        id_s: Their tokens.
        longest: Bytes of the longest one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        spelled = sorted((data, token) for token in range(tokenizer.size) if (data := tokenizer.token_bytes(token)))
        self.strings = [data for data, _ in spelled]
        self.id_s = np.array([token for _, token in spelled], np.intp)
        self.longest = max(map(len, self.strings))
        padded = np.array(self.strings, f"S{self.longest}")
        self._byte_sn = padded.view(np.uint8).reshape(len(self.strings), self.longest)

    def beyond(self, start: bytes) -> slice:
        """Places of the strings that begin with `start` and are longer. Cost: two searches by halves."""
        above = start.rstrip(b"\xff")
        until = bisect_left(self.strings, above[:-1] + bytes([above[-1] + 1])) if above else len(self.strings)
        return slice(bisect_right(self.strings, start), until)

    def bytes_at(self, places: slice, offset: int) -> NDArray[np.intp]:
        """The byte of each of these strings at an offset that lies in all of them."""
        return self._byte_sn[places, offset].astype(np.intp)


@lru_cache(maxsize=16)
def lexicon_of(tokenizer: Tokenizer) -> Lexicon:
    """The same one for all texts of a tokenizer. Cost: sorting the vocabulary, once."""
    return Lexicon(tokenizer)
