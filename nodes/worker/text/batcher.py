"""Writes many texts at once: they join and leave between steps, and those of one model share its calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import LanguageModel, Row
from nodes.worker.text.sampling import Floats
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.writing import Order, Piece, Writing


@dataclass
class Running:
    """A text among others; `piece` is what the last step added and `finish` why it ended."""

    key: int
    writing: Writing
    joined_s: float
    first_token_ms: float | None = None
    piece: Piece | None = None


class Batcher:
    """All texts of one process. One thread only."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}
        self.shelf = Shelf()

    def __len__(self) -> int:
        return len(self._running)

    def join(self, key: int, mixture: Mixture, order: Order) -> Running:
        """Begin a text; one whose joules pay for nothing has ended already.

        Raises:
            PromptRefused: if the question leaves no room for an answer.
        """
        text = Running(key, Writing(mixture, order), perf_counter())
        text.writing.borrow(self.shelf)
        if not text.writing.finish:
            self._running[key] = text
        return text

    def leave(self, key: int) -> Running | None:
        """End a text now; None where it is not there any more."""
        text = self._running.pop(key, None)
        if text is not None:
            text.writing.finish = "cancelled"
            text.writing.hand_over(self.shelf)
        return text

    def step(self) -> Iterator[Running]:
        """One more token for every text; those that have something to send or have ended.

        Cost: one call per model for all texts that add one token, one more for those that read several.
        """
        planned = [(text, text.writing.lanes.plan()) for text in self._running.values()]
        scores = _run([row for _, rows in planned for row in rows])
        for text, rows in planned:
            chosen = text.writing.lanes.choose([scores[id(row)] for _, row in rows])
            text.piece = text.writing.take(chosen)
            if text.first_token_ms is None:
                text.first_token_ms = (perf_counter() - text.joined_s) * 1e3
            if text.writing.finish:
                del self._running[text.key]
                text.writing.hand_over(self.shelf)
            if text.writing.finish or text.piece is not None:
                yield text


def _run(rows: list[tuple[LanguageModel, Row]]) -> dict[int, Floats]:
    """Scores (v) by the identity of each row."""
    groups: dict[tuple[LanguageModel, bool], list[tuple[int, Row]]] = defaultdict(list)
    for model, row in rows:
        rest = model.read_blocks(row)
        # A single token beside a long prompt would be padded to its length.
        groups[model, len(rest.tokens) == 1].append((id(row), rest))
    scores: dict[int, Floats] = {}
    for (model, _), group in groups.items():
        for (key, _), logits_v in zip(group, model.step([row for _, row in group]), strict=True):
            scores[key] = logits_v
    return scores
