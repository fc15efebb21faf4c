"""Hands files to an engine process through its pipe, for processes that may open none themselves."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nodes.arms import Tensors
from nodes.errors import EngineError, NodeError
from nodes.worker.frames import Frame

PIECE_BYTES = 4 * 1024 * 1024

_keys = itertools.count(1)


class Process(Protocol):
    """What handing over needs of an engine process."""

    def request(self, header: Mapping[str, Any], tensors: Tensors | None = None) -> asyncio.Future[Frame]: ...


@dataclass(frozen=True)
class OutsideTensor:
    """A tensor that a model names and another file holds; `file` counts in `Staged.files`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int


@dataclass(frozen=True)
class Staged:
    """What a model is made of.

    Attributes:
        read: Verified bytes of a file by its SHA-256; blocks, and raises NodeError where they are not what they were.
        model: SHA-256 of the ONNX file.
        files: SHA-256 of the files that hold outside tensors.
    """

    read: Callable[[str], bytes] = field(repr=False)
    model: str
    files: tuple[str, ...] = ()
    outside: tuple[OutsideTensor, ...] = ()


async def hand_over(process: Process, staged: Staged) -> str:
    """Send everything, a piece at a time, each when the process has taken the one before; returns the key.

    Raises:
        EngineError: if the process does not take it, or a file is not what it was.
    """
    key = f"staged-{next(_keys)}"
    await _send(process, key, await _read(staged, staged.model))
    if staged.outside:
        for number, sha256 in enumerate(staged.files):
            await _send(process, f"{key}/{number}", await _read(staged, sha256))
        await _send(process, f"{key}/table", _table(key, staged.outside))
    return key


async def _read(staged: Staged, sha256: str) -> bytes:
    try:
        return await asyncio.to_thread(staged.read, sha256)
    except (NodeError, OSError) as error:
        raise EngineError(f"a file of the model cannot be read: {error}") from error


def _table(key: str, outside: Sequence[OutsideTensor]) -> bytes:
    rows = [
        {
            "name": one.name,
            "dtype": one.dtype,
            "shape": one.shape,
            "file": f"{key}/{one.file}",
            "offset": one.offset,
        }
        for one in outside
    ]
    return json.dumps(rows).encode()


async def _send(process: Process, key: str, content: bytes) -> None:
    for piece in _pieces(content):
        answer = await process.request({"op": "stage", "key": key}, {"piece": np.frombuffer(piece, np.uint8)})
        if answer.op != "staged":
            raise EngineError("The engine does not take the model's files")


def _pieces(content: bytes) -> Iterator[memoryview]:
    view = memoryview(content)
    for at in range(0, max(len(view), 1), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]
