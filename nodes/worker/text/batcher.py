"""Writes many texts at once: they join and leave between steps, and those of one model share its calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import LanguageModel, Row
from nodes.worker.text.sampling import Floats
from nodes.worker.text.sharing import Turn, Voice
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.vectors import Reading
from nodes.worker.text.writing import Order, Piece, PromptRefused, Writing


@dataclass
class Running:
    """A text among others; `piece` is what the last step added, `busy_s` how long the steps took that it was in."""

    key: int
    writing: Writing | Voice | Reading
    joined_s: float
    first_token_ms: float | None = None
    piece: Piece | None = None
    busy_s: float = 0.0


class Batcher:
    """All texts of one process. One thread only."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}
        self.shelf = Shelf()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return any(not text.writing.waits for text in self._running.values())

    def join(self, key: int, mixture: Mixture, order: Order) -> Running:
        """Begin a text; one whose joules pay for nothing has ended already.

        Raises:
            PromptRefused: if the question leaves no room for an answer.
        """
        writing = Writing(mixture, order)
        writing.borrow(self.shelf)
        text = Running(key, writing, perf_counter())
        if not writing.finish:
            self._running[key] = text
        return text

    def join_reading(self, key: int, mixture: Mixture, texts: Sequence[str]) -> None:
        """Begin to read texts of which vectors are wanted.

        Raises:
            PromptRefused: if there is none, one is too long, or the expert makes no vectors.
        """
        self._running[key] = Running(key, Reading(mixture, texts), perf_counter())

    def join_shared(self, key: int, mixture: Mixture, order: Order, *, quiet: bool) -> None:
        """Begin one expert's part of a text that others write too; it waits for its first turn.

        Raises:
            PromptRefused: if the question leaves no room for an answer.
        """
        self._running[key] = Running(key, Voice(mixture, order, quiet=quiet), perf_counter())

    def turn(self, key: int, turn: Turn) -> Running | None:
        """Give a shared text its next turn; the text where there is something to send already or it has ended.

        Raises:
            PromptRefused: if others are said to have written what is no token; the text has ended then.
        """
        text = self._running.get(key)
        if text is None or not isinstance(text.writing, Voice):
            return None
        try:
            text.piece = text.writing.hear(turn)
        except PromptRefused:
            del self._running[key]
            raise
        if text.writing.finish:
            del self._running[key]
        return text if text.writing.finish or text.piece is not None else None

    def leave(self, key: int) -> Running | None:
        """End a text now; None where it is not there any more."""
        text = self._running.pop(key, None)
        if text is not None:
            text.writing.finish = "cancelled"
            text.writing.hand_over(self.shelf)
        return text

    def step(self) -> Iterator[Running]:
        """One more token for every text whose turn it is; those that have something to send or have ended.

        Cost: one call per model for all texts that add one token, one more for those that read several.
        """
        started_s = perf_counter()
        planned = [(text, text.writing.plan()) for text in self._running.values() if not text.writing.waits]
        scores = _run([row for _, rows in planned for row in rows])
        took_s = perf_counter() - started_s
        for text, rows in planned:
            text.busy_s += took_s
            text.piece = text.writing.advance([scores[id(row)] for _, row in rows])
            if text.first_token_ms is None and not isinstance(text.writing, Reading):
                text.first_token_ms = (perf_counter() - text.joined_s) * 1e3
            if text.writing.finish:
                del self._running[text.key]
                text.writing.hand_over(self.shelf)
            if text.writing.finish or text.piece is not None:
                yield text


def _run(rows: list[tuple[LanguageModel, Row]]) -> dict[int, Floats]:
    """Scores (v) by the identity of each row."""
    groups: dict[tuple[LanguageModel, bool, bool], list[tuple[int, Row]]] = defaultdict(list)
    for model, row in rows:
        rest = model.read_blocks(row)
        # A single token beside a long prompt would be padded to its length.
        groups[model, len(rest.tokens) == 1, rest.vector].append((id(row), rest))
    scores: dict[int, Floats] = {}
    for (model, *_), group in groups.items():
        for (key, _), logits_v in zip(group, model.step([row for _, row in group]), strict=True):
            scores[key] = logits_v
    return scores
