"""Files that came through the pipe, piece by piece, for a process that may open none.

What a model is made of lies under ``KEY``, ``KEY/table`` and ``KEY/0``, ``KEY/1``, …: its ONNX file, a JSON list of the
tensors that the model names but does not hold ({name, dtype, shape, file, offset}), and the files that hold them.
Needs Python 3.10 and numpy.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64")


class StagingError(Exception):
    """Something that is asked for was not staged."""


class Staging:
    """Pieces by key, until they are taken."""

    def __init__(self) -> None:
        self._pieces: dict[str, bytearray] = {}

    def add(self, key: str, piece: NDArray[np.uint8]) -> None:
        """Append to what is there under a key."""
        self._pieces.setdefault(key, bytearray()).extend(piece.data)

    def take(self, key: str) -> bytes:
        """Everything under a key, which is then gone.

        Raises:
            StagingError: There is nothing.
        """
        try:
            return bytes(self._pieces.pop(key))
        except KeyError:
            raise StagingError(f"{key} was not staged") from None

    def outside_tensors(self, table_key: str) -> dict[str, NDArray[Any]]:
        """The tensors of a table, as views of the files that were staged with it; none where there is no table.

        Raises:
            StagingError: The table names what was not staged, or a tensor does not fit its file.
        """
        if table_key not in self._pieces:
            return {}
        table: list[dict[str, Any]] = json.loads(self.take(table_key))
        files: dict[str, bytes] = {}
        tensors = {}
        for entry in table:
            key = entry["file"]
            if key not in files:
                files[key] = self.take(key)
            tensors[entry["name"]] = _view(files[key], entry)
        return tensors


def _view(content: bytes, entry: dict[str, Any]) -> NDArray[Any]:
    if entry["dtype"] not in DTYPES:
        raise StagingError(f"{entry['name']} has no dtype of ours")
    try:
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = np.frombuffer(content, entry["dtype"], count, entry["offset"])
    except ValueError as error:
        raise StagingError(f"{entry['name']} does not fit its file") from error
    return flat.reshape(entry["shape"])
