"""What agent and gateway say to each other about texts while they are written, by one node or in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nodes.engines.contract import Turn


@dataclass(frozen=True)
class TextDelta:
    """The next piece of a text."""

    work_id: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Written:
    """What came of a turn of a shared text; fields as in `nodes.engines.contract.TextPiece`."""

    work_id: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()
    top_ids: tuple[int, ...] = ()
    probabilities: NDArray[Any] | None = None
    ended: bool = False
    strings: tuple[bytes, ...] = ()
    next_bytes: NDArray[Any] | None = None
    read_tokens: int = 0


@dataclass(frozen=True)
class SharedText:
    """What is special about a text that experts on other nodes write too."""

    first: Turn
    min_tokens: int = 0


@dataclass(frozen=True)
class NextTurn:
    """A further turn of a shared text."""

    work_id: int
    turn: Turn
