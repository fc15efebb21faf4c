"""What a folder of experts says about itself: one task and one card per expert, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from nodes.errors import ConfigError, first_problem

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# A bare name: a card can never point outside its folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dimension = Annotated[int, Field(ge=-1)]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Card = TypeVar("Card")


class CatalogError(ConfigError):
    """A folder of experts is not what it says it is; the text names the file and what to do."""


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays and its digest."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    file: FileName
    sha256: Sha256


@dataclass(frozen=True)
class TensorCard:
    """A tensor that experts take or give; a dimension of -1 is free (the batch)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    dtype: Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class TaskCard:
    """What goes into the experts of a task, what comes out, and the digits that judge them.

    Attributes:
        normalisation: How a picture becomes the input, in words.
        reference: Samples that the evidence answers.
        held_out: Samples that no shipped expert, and no evidence, has seen.
        evidence: Answers of every expert to the reference, by models that had not seen the sample.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Name
    input: TensorCard
    output: TensorCard
    labels: tuple[str, ...]
    normalisation: str
    source: str
    reference: ArrayFile
    held_out: ArrayFile
    evidence: ArrayFile


@dataclass(frozen=True)
class Quality:
    """Share of right answers on samples that the expert never saw."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    accuracy_fraction: Fraction
    samples: Count
    split: str


@dataclass(frozen=True)
class ExpertCard:
    """One variant of one expert.

    Attributes:
        file: Its weights, in the same folder.
        sha256: Digest of that file.
        macs: Multiply-accumulates of one inference.
        memory_bytes: Estimate of what a loaded copy keeps resident; `memory_note` says how.
        evidence_key: Name of its answers in the task's evidence.
        recipe: Settings that it was trained with.
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
    quality: Quality
    evidence_key: str
    recipe: dict[str, float | int | str]


def read_card(path: Path, kind: type[Card]) -> Card:
    """Parse one card.

    Raises:
        CatalogError: The file is missing, or a key is unknown, missing or out of range.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CatalogError(f"{path} is missing. Point to a folder of experts that has one.") from None
    except ValidationError as refusal:
        raise CatalogError(f"{path}: {first_problem(refusal)}. Correct the card.") from None
