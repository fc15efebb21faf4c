"""Small files of a gateway's state folder: whoever reads one finds the old or the new one, also after a power cut."""

from __future__ import annotations

import json
import os
from pathlib import Path


def save_json(file: Path, document: object, *, private: bool = False, indent: int | None = 2) -> None:
    """Write a file atomically. Blocks for an fsync.

    Args:
        file: Its folder is made where there is none.
        document: What JSON can hold.
        private: Only its owner may read it.
        indent: For people who look at it; None where it is long.

    Raises:
        OSError: The folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    mode = 0o600 if private else 0o666
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as stream:
        json.dump(document, stream, indent=indent, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
