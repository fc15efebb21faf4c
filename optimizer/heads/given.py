"""Heads that somebody else trained, in the place of learned ones: what `edgewise gate train` wrote, for one task.

Shape letters: f features, g experts of the given gate, e experts of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.feedback import TensorGate
from optimizer.gate.gate import TextGate
from optimizer.heads.head import HeadBank
from optimizer.heads.texts import TextHeads, bounded_logit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Given(Protocol):
    """Quality by query, from a gate that was not learned here."""

    @property
    def experts(self) -> tuple[str, ...]:
        """Names, in the order of `quality`."""
        ...

    def quality(self, x_f: NDArray[Any]) -> Floats | None:
        """Probability of a right answer of each expert, (g,); None where it cannot read this query."""
        ...


@dataclass(frozen=True)
class GivenTexts:
    """A gate for text, asked for one task.

    Args:
        gate: Trained elsewhere.
        task: Name; one that the gate does not know counts as not told.
    """

    gate: TextGate
    task: str

    @property
    def experts(self) -> tuple[str, ...]:
        """Those of the gate."""
        return self.gate.experts

    def quality(self, x_b: NDArray[Any]) -> Floats | None:
        """Of one prompt, given as its bytes, (g,)."""
        return self.gate.quality(bytes(x_b).decode(errors="replace"), self.task)


@dataclass(frozen=True)
class GivenTensors:
    """The heads that a gate for tensors has for one task.

    Args:
        gate: Trained elsewhere.
        task: Name; the gate has heads for it.
    """

    gate: TensorGate
    task: str

    @cached_property
    def _rows(self) -> list[int]:
        return [h for h, task in enumerate(self.gate.tasks_h) if task == self.task]

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """Those with a head for the task."""
        return tuple(self.gate.experts_h[h] for h in self._rows)

    @cached_property
    def _weights(self) -> tuple[Floats, Floats]:
        return self.gate.weights_hf[self._rows], self.gate.bias_h[self._rows]

    def quality(self, x_f: NDArray[Any]) -> Floats | None:
        """Of one tensor, (g,); None for one that cannot be read: too small, not finite, or not the encoder's.

        Cost: as `TensorGate.features`.
        """
        features_f = self.gate.features(x_f)
        if features_f is None:
            return None
        weights_gf, bias_g = self._weights
        return np.asarray(np.clip(weights_gf @ features_f + bias_g, 0.0, 1.0))


@dataclass(frozen=True)
class MixedHeads:
    """Learned heads, some of which give way to given ones.

    Args:
        learned: A head for every expert.
        given: What some of them give way to.
        from_g: Which of the given ones are used.
        to_e: Whose heads they take the place of, in the same order.
    """

    learned: HeadBank | TextHeads
    given: Given
    from_g: Ints
    to_e: Ints

    @classmethod
    def of(cls, learned: HeadBank | TextHeads, experts: Sequence[str], given: Given) -> MixedHeads | None:
        """None where the given gate knows none of the experts."""
        from_g, to_e = matches(given.experts, experts)
        return cls(learned, given, from_g, to_e) if len(from_g) else None

    def log_odds(self, x_f: NDArray[Any]) -> Floats:
        """Log odds of a right answer of each expert, (e,)."""
        odds_e, quality_g = self.learned.log_odds(x_f), self.given.quality(x_f)
        if quality_g is not None:
            odds_e[self.to_e] = bounded_logit(quality_g[self.from_g])
        return odds_e

    def predict(self, x_f: NDArray[Any]) -> Floats:
        """Probability of a right answer of each expert, (e,)."""
        quality_e, quality_g = self.learned.predict(x_f), self.given.quality(x_f)
        if quality_g is not None:
            quality_e[self.to_e] = quality_g[self.from_g]
        return quality_e


def matches(given: Sequence[str], wanted: Sequence[str]) -> tuple[Ints, Ints]:
    """Where experts of the same names stand in the one list, and in the other."""
    place = {name: e for e, name in enumerate(wanted)}
    pairs = [(g, place[name]) for g, name in enumerate(given) if name in place]
    pairs_2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return pairs_2[:, 0], pairs_2[:, 1]
