"""What a folder of text experts says about itself: one task, one card per expert, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from nodes.zoo.cards import STRICT, ArrayFile, Count, FileName, Fraction, Name, Sha256

NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class TextTaskCard:
    """What text experts are asked, and the questions that judge them.

    Attributes:
        text: Tells this task from those of tensors.
        suites: Kinds of questions, in the order of the numbers in `reference` and `test`.
        normalisation: When an answer counts as right, in words.
        reference: Questions that the evidence answers.
        test: Questions for judging: in no training, in no evidence.
        evidence: Answers of every expert to the reference.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Name
    text: Literal[True]
    suites: tuple[str, ...]
    normalisation: str
    source: str
    reference: ArrayFile
    test: ArrayFile
    evidence: ArrayFile


@dataclass(frozen=True)
class Score:
    """Share of right answers, with its 95 % interval (Wilson)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    right_fraction: Fraction
    low_fraction: Fraction
    high_fraction: Fraction
    samples: Count


@dataclass(frozen=True)
class Learned:
    """What an expert was trained on; `cpu_s` is processor time of one core."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    suites: tuple[str, ...]
    steps: Count
    questions: Count
    tokens: Count
    cpu_s: NotNegative


@dataclass(frozen=True)
class TextExpertCard:
    """One variant of one text expert.

    Attributes:
        file: Its weights, or the mixture that names others' weights.
        sha256: Digest of that file.
        macs: Multiply-accumulates of one token.
        memory_bytes: Estimate of what a loaded copy keeps resident; `memory_note` says how.
        quality: On the whole test split.
        suites: On each suite of it.
        context_tokens: Question and answer together.
        completion_tokens: Mean of an answer on the reference.
        completion_p95_tokens: 95 % quantile there.
        tokenizer_digest: Experts with the same one share a vocabulary.
        evidence_key: Prefix of its arrays in the task's evidence.
        learned: Empty for mixtures.
        recipe: Settings that it was trained with, or weights of a mixture's members.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Name
    variant: Name
    task: Name
    engine: Name
    file: FileName
    sha256: Sha256
    macs: Count
    parameters: Count
    memory_bytes: Count
    memory_note: str
    quality: Score
    suites: dict[str, Score]
    context_tokens: Count
    completion_tokens: NotNegative
    completion_p95_tokens: NotNegative
    tokenizer_digest: Sha256
    evidence_key: str
    learned: Learned | None
    recipe: dict[str, float | int | str]
