"""The one tokenizer of the small text experts: whole words that are common, bytes for everything else.

Ids 0 to 255 are bytes, then come three marks, then words, most of them with the space before them. Any text goes in,
and comes back unchanged. Needs Python 3.10 and nothing else, for it also runs in the engine process.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

BEGIN, ANSWER, END = 256, 257, 258
MARKS = 3
_PIECES = re.compile(r" ?[A-Za-z]+|.", re.DOTALL)


class Tokenizer:
    """Text to token ids and back.

    Args:
        words: In the order of their ids.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: 256 + MARKS + i for i, word in enumerate(self.words)}
        self._bytes = [bytes([i]) for i in range(256)] + [b""] * MARKS + [word.encode() for word in self.words]

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self._bytes)

    @property
    def digest(self) -> str:
        """SHA-256 of the words: experts with the same digest share a vocabulary."""
        return hashlib.sha256(json.dumps(self.words).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without marks. Cost: some 20 µs for a question."""
        ids: list[int] = []
        for piece in _PIECES.findall(text):
            known = self._ids.get(piece)
            ids.extend(piece.encode("utf-8", "surrogateescape") if known is None else (known,))
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """The same of bytes, which may be no UTF-8 or end within a letter."""
        return self.encode(data.decode("utf-8", "surrogateescape"))

    def seam(self, data: bytes, start: int = 0) -> int:
        """The last place behind `start` where a text can be taken apart and each part encoded by itself, whatever
        follows; `start` where there is none."""
        for place in range(len(data) - 1, start, -1):
            before = data[place - 1 : place]
            if before.isalpha() and data[place : place + 1] == b" ":
                return place
            if before.isascii() and not before.isalpha() and before != b" ":
                return place
        return start

    def prompt(self, question: str) -> list[int]:
        """Ids of a question as an expert reads it, up to where the answer begins."""
        return [BEGIN, *self.encode(question), ANSWER]

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to the text; nothing for marks."""
        return self._bytes[token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")
