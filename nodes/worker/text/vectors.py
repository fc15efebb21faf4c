"""Vectors of texts, from inside a decoder: its state in the middle of its blocks, just where it begins to answer.

There it has read everything and knows what it is asked, and not yet which word it says first. The mean over all tokens
and the last block tell questions apart much worse (`tests/bench/bench_embeddings.py`). A vector costs what reading the
question costs, and has length 1.

Shapes: b rows, d width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.mixing import Counts, Mixture
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Floats
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.writing import Piece, PromptRefused

# Tokens that are read in one step, one text at least: who writes meanwhile waits as for a long prompt.
TOKENS_PER_STEP = 512


class Reading:
    """Several texts of which nothing is written but a vector each; behaves as `Writing` does.

    Args:
        mixture: The one model that reads them.
        texts: Each by itself.

    Raises:
        PromptRefused: if there is none, one is too long, or the expert makes no vectors.
    """

    def __init__(self, mixture: Mixture, texts: Sequence[str]) -> None:
        model, *others = mixture.models
        if others or not model.makes_vectors:
            raise PromptRefused("this expert makes no embeddings")
        self._model = model
        self._prompts = [model.tokenizer.prompt(text) for text in texts]
        if not self._prompts:
            raise PromptRefused("there is no text")
        longest = max(map(len, self._prompts))
        if longest > model.context_tokens:
            raise PromptRefused(f"a text has {longest} tokens; {model.context_tokens} is the limit")
        self._vectors: list[NDArray[np.float32]] = []
        self.prompt_tokens = sum(map(len, self._prompts))
        self.cached_tokens = self.completion_tokens = 0
        self.counts = Counts()
        self.margin_fraction: float | None = None
        self.finish = ""

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do."""
        return bool(self.finish)

    def plan(self) -> list[tuple[LanguageModel, Row]]:
        """The next texts, a row each."""
        first = len(self._vectors)
        ends = accumulate(map(len, self._prompts[first:]))
        prompts = self._prompts[first : first + max(1, sum(end <= TOKENS_PER_STEP for end in ends))]
        self.counts.calls += 1
        self.counts.macs += sum(self._model.macs(0, len(prompt)) for prompt in prompts)
        return [(self._model, Row(Cache(self._model), prompt, vector=True)) for prompt in prompts]

    def advance(self, scores: Sequence[Floats]) -> Piece:
        """Take the states (d) of the planned rows; a piece without text, which shows that it goes on."""
        self._vectors += [_of_length_one(state_d) for state_d in scores]
        if len(self._vectors) == len(self._prompts):
            self.finish = "stop"
        return Piece("", ())

    @property
    def vectors_bd(self) -> NDArray[np.float32]:
        """What was read so far."""
        return np.array(self._vectors, np.float32)

    def hand_over(self, shelf: Shelf) -> None:
        """Nothing of these texts is kept."""


def _of_length_one(state_d: Floats) -> NDArray[np.float32]:
    state_d = state_d.astype(np.float64)
    return (state_d / max(float(np.linalg.norm(state_d)), 1e-12)).astype(np.float32)
