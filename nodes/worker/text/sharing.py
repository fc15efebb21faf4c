"""One expert's part of a text that experts on several nodes write together.

Each token is one expert's turn, drawn by weight (arXiv 2605.00419), and who draws is elsewhere: an expert is told what
the others wrote since its last turn and how many tokens to write now. It reads the former when its turn comes, in one
call. Every expert makes the draws of one generator that all seed alike, so that the text is the one that the same
experts write in one process (`nodes.worker.text.mixing`). Greedy texts need the average itself: there each expert tells
probabilities instead, and whoever averages them says which token it became. Experts of different vocabularies tell
strings and hear bytes (`nodes.worker.text.spelling`).

Shapes: v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.mixing import Counts, Lanes, Mixture
from nodes.worker.text.model import LanguageModel, Row
from nodes.worker.text.sampling import Floats, most_probable, probabilities
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.spelling import Spelled, Spelling
from nodes.worker.text.writing import Allowance, Order, Piece, PromptRefused, Writing


@dataclass(frozen=True)
class Turn:
    """What an expert is to do next; fields as in `Turn` of the wire."""

    token_ids: tuple[int, ...] = ()
    count: int = 0
    tops: int = 0
    dense: bool = False
    tell_text: bool = False
    last: bool = False
    strings: int = 0
    pieces: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Told:
    """Probabilities of the next token; `top_ids` is empty where they are those of the whole vocabulary in order."""

    top_ids: tuple[int, ...]
    probabilities: NDArray[np.float16]


class Voice:
    """What one expert does for a shared text.

    Args:
        mixture: Of one model.
        order: What is asked for. Its joules are the business of whoever hands out turns.
        quiet: One piece for a whole turn instead of one per token.

    Raises:
        PromptRefused: if the question leaves no room for an answer, or this is a mixture already.
    """

    def __init__(self, mixture: Mixture, order: Order, *, quiet: bool) -> None:
        if len(mixture.models) != 1:
            raise PromptRefused("a mixture takes no turns; its members do")
        self._writing = Writing(mixture, replace(order, allowance=Allowance()))
        self._writing.lanes.takes_turns = True
        self._quiet = quiet
        self._left = 0
        self._asked: Turn | None = None
        self._gathered: list[Piece] = []
        self._seen_v: Floats | None = None
        self._spelling: Spelling | None = None
        self._planned: tuple[LanguageModel, Row] | None = None
        self.told: Told | Spelled | None = None

    @property
    def finish(self) -> str:
        """Why the text has ended; "" before that."""
        return self._writing.finish

    @finish.setter
    def finish(self, reason: str) -> None:
        self._writing.finish = reason

    @property
    def lanes(self) -> Lanes:
        """This expert's place in the text."""
        return self._writing.lanes

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the question."""
        return self._writing.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of the text, whoever wrote them."""
        return self._writing.completion_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, from texts before: none, see `hand_over`."""
        return 0

    def hand_over(self, shelf: Shelf) -> None:
        """Nothing is left to others: what a shared text reads is mostly not its prompt."""

    @property
    def margin_fraction(self) -> float | None:
        """Mean margin of this expert's own tokens."""
        return self._writing.margin_fraction

    @property
    def counts(self) -> Counts:
        """What this expert did."""
        return self._writing.counts

    @property
    def waits(self) -> bool:
        """Whether it is others' turn, or the text has ended."""
        return bool(self.finish) or (self._left == 0 and self._asked is None)

    def hear(self, turn: Turn) -> Piece | None:
        """Take a turn: what others wrote, and what to do now. The text of it where that is asked for."""
        if turn.strings or turn.pieces:
            return self._hear_pieces(turn)
        heard = [piece for token in turn.token_ids if not self.finish and (piece := self._writing.hear(token))]
        if turn.last and not self.finish and (rest := self._writing.stop()):
            heard.append(rest)
        self._left, self._asked = turn.count, turn if turn.tops or turn.dense else None
        if turn.token_ids or turn.count:
            self._seen_v = None
        if self._asked is not None and self._seen_v is not None:
            # More of what was told before: nothing runs again.
            self.told, self._asked = _told(self._seen_v, self._asked), None
            return Piece("", ())
        if not turn.tell_text or not heard:
            return None
        return Piece("".join(piece.text for piece in heard), ())

    def _hear_pieces(self, turn: Turn) -> Piece | None:
        """The same of a text that experts of other vocabularies write too."""
        writing, spelling = self._writing, self._spelt()
        heard = [piece for data in turn.pieces if not self.finish and (piece := writing.hear_bytes(data))]
        spelling.hear(b"".join(turn.pieces))
        if not self.finish and (turn.last or spelling.tokens >= writing.room_tokens) and (rest := writing.stop()):
            heard.append(rest)
        said = "".join(piece.text for piece in heard) if turn.tell_text else ""
        self._asked = turn if turn.strings and not self.finish else None
        self._planned = spelling.plan() if self._asked is not None else None
        if self._asked is not None and self._planned is None:
            self._tell_strings(self._asked)
            return Piece(said, ())
        return Piece(said, ()) if said else None

    def _spelt(self) -> Spelling:
        if self._spelling is None:
            lanes = self._writing.lanes
            (place,) = lanes.places
            temperature = lanes.sampling.temperature
            self._spelling = Spelling(place, lanes.tokens, temperature=temperature, counts=lanes.counts)
        return self._spelling

    def _tell_strings(self, asked: Turn) -> None:
        ends = self.completion_tokens >= self._writing.lanes.endless_tokens
        self.told, self._asked, self._planned = self._spelt().tell(asked.strings, ends=ends), None, None

    def plan(self) -> list[tuple[LanguageModel, Row]]:
        """See `Lanes`."""
        if self._planned is not None:
            return [self._planned]
        lanes = self._writing.lanes
        return lanes.plan() if self._asked is None else lanes.look()

    def advance(self, scores: Sequence[Floats]) -> Piece | None:
        """The next token of the turn, or the probabilities that were asked for in `told`."""
        if self._asked is not None and self._asked.strings:
            self._spelt().advance(scores[0])
            self._tell_strings(self._asked)
            return Piece("", ())
        if self._asked is not None:
            self._seen_v = probabilities(self._writing.lanes.possible(scores[0]))
            self.told, self._asked = _told(self._seen_v, self._asked), None
            return Piece("", ())
        chosen = self._writing.lanes.choose(scores)
        piece = self._writing.take(chosen)
        self._left -= 1
        # Tokens are told at once, their text when it is certain.
        said = Piece("", (chosen.token,)) if piece is None else replace(piece, token_ids=(chosen.token,))
        if not self._quiet:
            return said
        self._gathered.append(said)
        return self._gather() if self.waits else None

    def _gather(self) -> Piece:
        pieces, self._gathered = self._gathered, []
        return Piece(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.token_ids),
            tuple(one for piece in pieces for one in piece.logprobs),
        )


def _told(probability_v: Floats, asked: Turn) -> Told:
    if asked.dense:
        return Told((), probability_v.astype(np.float16))
    tops = most_probable(probability_v, asked.tops)
    return Told(tuple(tops), probability_v[tops].astype(np.float16))


def turn_from(header: Mapping[str, Any]) -> Turn:
    """The turn in a frame's header.

    Raises:
        PromptRefused: if it is not what an agent sends.
    """
    try:
        return Turn(
            tuple(map(int, header["token_ids"])),
            int(header["count"]),
            int(header["tops"]),
            bool(header["dense"]),
            bool(header["tell_text"]),
            bool(header["last"]),
            int(header["strings"]),
            tuple(piece.encode("latin-1") for piece in header["pieces"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise PromptRefused(f"the turn cannot be read: {problem!r}") from problem
