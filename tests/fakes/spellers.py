"""Experts of several vocabularies that write one text in this process: batchers as in an engine, and the gateway's own
choice of bytes. Between them a node's frames and a gateway's messages are left out, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.batcher import Batcher, Running
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import Row
from nodes.worker.text.sharing import Turn, Voice
from nodes.worker.text.spelling import Spelled
from nodes.worker.text.tokens import Tokenizer
from nodes.worker.text.writing import Order
from orchestrator.execution.averaging import TOPS
from orchestrator.execution.bytewise import Choose, likeliest, next_piece
from orchestrator.types import Delta


class TableModel:
    """A language model whose scores hang on all tokens before, as a test's table has them; the cache holds tokens in
    place of keys, so that what was forgotten or kept wrongly is read wrongly.

    Args:
        words: Beside bytes.
        probabilities: Of every token (v), by the tokens before.
    """

    def __init__(
        self, words: Sequence[str], probabilities: Callable[[tuple[int, ...]], NDArray[np.float64]], context: int = 4096
    ) -> None:
        self.sizes = {"context_tokens": context, "layers": 1, "kv_heads": 1, "head_width": 1}
        self.context_tokens = context
        self.tokenizer = Tokenizer(words)
        self._probabilities = probabilities
        self.read = 0

    def macs(self, past: int, new: int) -> int:
        """One for each token."""
        return new

    def read_blocks(self, row: Row) -> Row:
        """Nothing is read ahead."""
        return row

    def step(self, rows: Sequence[Row]) -> list[NDArray[np.float64]]:
        """See `LanguageModel`."""
        return [self._scores(row) for row in rows]

    def _scores(self, row: Row) -> NDArray[np.float64]:
        row.cache.add(np.array(row.tokens, np.float32).reshape(1, 1, 1, -1, 1).repeat(2, axis=1))
        self.read += len(row.tokens)
        held = tuple(row.cache.past[0, 0, 0, 0, :, 0].astype(int).tolist())
        told = [self._probabilities(held[: len(held) - back]) for back in reversed(range(row.scored))]
        with np.errstate(divide="ignore"):
            logits = np.log(np.array(told))
        return logits[0] if row.scored == 1 else logits


@dataclass
class Written:
    """A text that was written, and what it took."""

    text: str = ""
    data: bytes = b""
    finish: str = ""
    steps: int = 0
    calls: list[int] = field(default_factory=list)
    read_tokens: list[int] = field(default_factory=list)


def begin(model: object, order: Order) -> Batcher:
    """An expert in a process of its own."""
    batcher = Batcher()
    batcher.join_shared(1, Mixture([model], [1.0]), order, quiet=False)  # type: ignore[list-item]
    return batcher


def ask(batcher: Batcher, turn: Turn) -> tuple[Spelled | None, str, str]:
    """What an expert tells in its turn, with the text that it says and why the text ended with it."""
    said = ""
    running: Running | None = batcher.turn(1, turn)
    while True:
        if running is not None:
            said += running.piece.text if running.piece else ""
            if running.writing.finish:
                return None, said, running.writing.finish
            told = running.writing.told if isinstance(running.writing, Voice) else None
            if isinstance(told, Spelled):
                running.writing.told = None  # type: ignore[union-attr]
                return told, said, ""
        (running,) = batcher.step()


def heard(told: Spelled) -> Delta:
    """The same as a gateway has it."""
    next_bytes = None if told.next_bytes is None else told.next_bytes.astype(float)
    return Delta(
        0, "", (), top_probabilities=told.probabilities.astype(float), strings=told.strings, next_bytes=next_bytes
    )


def write(
    models: Sequence[object],
    order: Order,
    *,
    weights: Sequence[float] = (),
    choose: Choose = likeliest,
    strings: int = TOPS,
    steps: int = 60,
) -> Written:
    """The text that these experts write together."""
    batchers = [begin(model, replace(order, max_tokens=steps)) for model in models]
    found = Written(calls=[0] * len(models), read_tokens=[0] * len(models))
    newest: tuple[bytes, ...] = ()
    while True:
        told = []
        for place, batcher in enumerate(batchers):
            one, said, finish = ask(batcher, Turn(strings=strings, pieces=newest, tell_text=place == 0))
            found.text += said
            if one is None:
                found.finish = finish
                return found
            found.calls[place] += one.read_tokens > 0
            found.read_tokens[place] += one.read_tokens
            told.append(heard(one))
        piece = next_piece(told, weights or [1.0] * len(models), len(found.data), choose)
        found.data, newest, found.steps = found.data + piece, (piece,), found.steps + 1
