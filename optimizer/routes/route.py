"""Routes: which experts answer one query, in which order, and how their answers become one.

A route is a chain of stages. The experts of one stage run in parallel; the next stage runs only where the confidence
so far is below the stage's threshold. A single expert, a fan-out and a cascade are all routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from optimizer.errors import EvidenceError


class Fusion(StrEnum):
    """How the answers so far become one distribution over classes."""

    # The answer of the last stage alone.
    NONE = "none"
    # Weighted arithmetic mean of the distributions.
    MIXTURE = "mixture"
    # Majority of the labels; ties go to the class with more probability.
    VOTE = "vote"
    # Geometric mean: experts that disagree lower the confidence, none of them is outvoted by one that is sure.
    GEOMETRIC = "geometric"
    # The answer that its expert is surest of, by what the expert's answers have been worth.
    SUREST = "surest"
    # The last stage reads the answers of those before it and says which is right.
    JUDGE = "judge"
    # Experts of one vocabulary write one text in turns, each token's turn drawn by weight: the mixture of their
    # distributions, token by token.
    TOKEN = "token"  # noqa: S105
    # Experts of any vocabularies write one text together: the average of what they say of each next byte.
    BYTES = "bytes"
    # Product of experts: like `GEOMETRIC`, but agreement of independent experts raises the confidence.
    PRODUCT = "product"


@dataclass(frozen=True)
class Route:
    """One way to answer a query.

    Args:
        stages: Experts of each stage, by name.
        continue_below: One threshold per stage but the last: the next stage runs where the confidence is lower.
        fusion: How the answers so far combine.
        weights: For `Fusion.MIXTURE` and texts that are written together, one per expert in the order of the stages;
            empty weighs all alike.
    """

    stages: tuple[tuple[str, ...], ...]
    continue_below: tuple[float, ...] = ()
    fusion: Fusion = Fusion.NONE
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        experts = [expert for stage in self.stages for expert in stage]
        if not self.stages or not all(self.stages) or len(set(experts)) != len(experts):
            raise EvidenceError("A route needs stages with at least one expert each, no expert twice.")
        if len(self.continue_below) != len(self.stages) - 1:
            raise EvidenceError("A route needs one threshold per stage but the last.")
        if self.weights and (len(self.weights) != len(experts) or min(self.weights) <= 0.0):
            raise EvidenceError("A route's weights, where there are any, are positive and one per expert.")

    @classmethod
    def single(cls, expert: str) -> Route:
        """The route that runs one expert."""
        return cls(stages=((expert,),))

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """All experts, in the order of the stages."""
        return tuple(expert for stage in self.stages for expert in stage)

    @cached_property
    def name(self) -> str:
        """For people: ``a``, ``a+b (mixture)``, ``a >0.9> b`` (b runs where the confidence is below 0.9)."""
        text = "+".join(self.stages[0])
        for threshold, stage in zip(self.continue_below, self.stages[1:], strict=True):
            text += f" >{threshold:g}> {'+'.join(stage)}"
        return text if self.fusion is Fusion.NONE else f"{text} ({self.fusion.value})"

    @property
    def writes_together(self) -> bool:
        """Whether its experts write one text, step by step."""
        return self.fusion in (Fusion.TOKEN, Fusion.BYTES)

    @property
    def is_single(self) -> bool:
        """Whether exactly one expert runs, always."""
        return len(self.experts) == 1
