"""A language model that says what the test tells it to: fixed scores, whatever it reads. Shapes: v vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.mixing import Lanes, Mixture
from nodes.worker.text.model import Row
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.tokens import Tokenizer


class FixedModel:
    """Keeps the books of a cache as a real model does, and counts what it was given to read."""

    def __init__(self, probability_v: NDArray[np.float64], context_tokens: int = 1 << 20) -> None:
        with np.errstate(divide="ignore"):
            self._logits_v = np.log(probability_v)
        self.sizes = {"context_tokens": context_tokens, "layers": 1, "kv_heads": 1, "head_width": 1}
        self.context_tokens = context_tokens
        self.tokenizer = Tokenizer([])
        self.read: list[int] = []

    def macs(self, past: int, new: int) -> int:
        """One for each token."""
        return new

    def read_blocks(self, row: Row) -> Row:
        """Nothing is read ahead."""
        return row

    def step(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """The fixed scores for every row."""
        for row in rows:
            self.read.extend(row.tokens)
            row.cache.add(np.zeros((1, 2, 1, len(row.tokens), 1), np.float32))
        return np.tile(self._logits_v, (len(rows), 1))


def lanes(models: Sequence[FixedModel], weight_e: Sequence[float], *, seed: int, temperature: float = 1.0) -> Lanes:
    """A text of these models with a prompt of two tokens."""
    mixture = Mixture(models, weight_e)  # type: ignore[arg-type]
    return Lanes(mixture, [1, 2], sampling=Sampling(temperature), seed=seed)


def write(text: Lanes, tokens: int) -> list[int]:
    """So many further tokens, through plan, step and choice."""
    found = []
    for _ in range(tokens):
        scores = [model.step([row])[0] for model, row in text.plan()]
        found.append(text.choose(scores).token)
    return found
