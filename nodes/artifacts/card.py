"""``expert.json`` of a pushed model: what it is called and how good it is, read strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nodes.errors import ArtifactRefused
from nodes.zoo.cards import STRICT, Count, Fraction, Name

CARD_FILE = "expert.json"
MAX_CARD_BYTES = 64 * 1024
MAX_MACS = 10**15

Path = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class PushedQuality:
    """Share of right answers on samples that the expert never saw."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    accuracy_fraction: Fraction
    samples: Count


@dataclass(frozen=True)
class PushedCard:
    """One expert.

    Attributes:
        macs: Multiply-accumulates of one sample; modelled joules follow from them.
        variant: One form of the expert; several may be pushed under names of their own.
        task: What the manifest says too; may be left out.
        file: Its ONNX file; may be left out where there is only one.
        memory_bytes: Resident bytes of a loaded copy; None takes twice the size of the files.
        evidence: A safetensors file with the tensor ``outputs`` (n, c): its answers to the task's reference set, none
            of them to a sample that it was trained on. Without it the gate does not choose the expert by itself.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Name
    macs: Annotated[int, Field(ge=0, le=MAX_MACS)]
    quality: PushedQuality
    variant: Name = "onnx"
    task: Name | None = None
    file: Path = ""
    memory_bytes: Count | None = None
    evidence: Path | None = None


def read_card(content: memoryview) -> PushedCard:
    """Parse a card.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID; the text names the key at fault.
    """
    if len(content) > MAX_CARD_BYTES:
        raise ArtifactRefused("ARTIFACT_INVALID", f"{CARD_FILE} is longer than {MAX_CARD_BYTES} bytes.")
    try:
        # Which of two equal keys counts is up to the reader: the second one must not be there.
        json.loads(bytes(content), object_pairs_hook=_once)
        return TypeAdapter(PushedCard).validate_json(bytes(content))
    except ValidationError as refusal:
        problem = refusal.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))[:60] or "it"
        raise ArtifactRefused("ARTIFACT_INVALID", f"{CARD_FILE}: {where}: {problem['msg'][:80]}.") from None
    except (ValueError, RecursionError):
        raise ArtifactRefused("ARTIFACT_INVALID", f"{CARD_FILE} is not JSON, or has a key twice.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)
