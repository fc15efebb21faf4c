"""Whose turn each token of a shared text is: drawn from a seed, before any of them is written. Pure.

The draw does not depend on the text (arXiv 2605.00419), so that runs of one expert are known in advance, and with them
what a text of any length will cost. Every token takes two draws of one generator: the first here, the second by the
expert that writes it (`nodes.worker.text.mixing` makes the same ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_TOKEN = 2
_AHEAD = 256


class Schedule:
    """Turns by token.

    Args:
        weights: How often each expert's turn comes; need not sum to 1.
        seed: The same seed gives the same turns.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._cumulated_e = np.cumsum(np.asarray(weights, np.float64) / float(np.sum(weights)))
        self._weight_e = np.diff(self._cumulated_e, prepend=0.0)
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._uniforms: list[float] = []

    @property
    def weights(self) -> NDArray[np.float64]:
        """Those that count now."""
        return self._weight_e

    def expert(self, place: int) -> int:
        """Whose turn the token at this place is."""
        while place >= len(self._uniforms):
            self._uniforms += self._random.random(DRAWS_PER_TOKEN * _AHEAD)[::DRAWS_PER_TOKEN].tolist()
        found = np.searchsorted(self._cumulated_e, self._uniforms[place] * self._cumulated_e[-1], side="right")
        return int(min(found, len(self._cumulated_e) - 1))

    def run(self, place: int, most: int) -> tuple[int, int]:
        """The expert whose turn comes at this place, and for how many tokens in a row, at most `most`."""
        expert, count = self.expert(place), 1
        while count < most and self.expert(place + count) == expert:
            count += 1
        return expert, count

    def lose(self, expert: int) -> bool:
        """An expert is gone: the others take over its turns by their weights. False where there is none."""
        weight_e = self._weight_e.copy()
        weight_e[expert] = 0.0
        if not weight_e.any():
            return False
        self._weight_e = weight_e / weight_e.sum()
        self._cumulated_e = np.cumsum(self._weight_e)
        return True


@dataclass(frozen=True)
class Rates:
    """Joules of one expert at the promise's quantile: once, for each token that others wrote, for each of its own."""

    once_j: float
    heard_j: float
    written_j: float


def paid_tokens(
    schedule: Schedule, rates: Sequence[Rates], *, allowed_j: float, known: Sequence[int], most: int
) -> int:
    """How long a text may become so that its joules stay within what is allowed; at most `most`.

    Args:
        schedule: Whose turn comes when.
        rates: By expert.
        allowed_j: What may still be spent.
        known: Tokens that each expert has read or written; -1 for one that has not begun. The text continues behind
            the longest.
        most: Tokens of the text at which it ends anyway.
    """
    read, left_j = list(known), allowed_j
    place = max(0, *read)
    while place < most and left_j < float("inf"):
        expert = schedule.expert(place)
        rate = rates[expert]
        begun = read[expert] >= 0
        # The newest token is read along with its successor.
        missed = max(0, place - max(read[expert], 0) - 1)
        left_j -= rate.written_j + missed * rate.heard_j + (0.0 if begun else rate.once_j)
        if left_j < 0.0:
            return place
        read[expert] = place = place + 1
    return most
