"""A model's folder on an operator's machine: its files, listed and digested, read without following anything."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts import beneath
from orchestrator.artifacts.types import Manifest, ModelFile
from orchestrator.artifacts.wire import MAX_FILES, check_path
from orchestrator.errors import RequestError
from orchestrator.wire import check_name

CARD_FILE = "expert.json"
MAX_CARD_BYTES = 64 * 1024


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be pushed."""

    folder: Path
    manifest: Manifest

    def chunks(self, sha256: str, offset: int, size: int) -> Iterator[bytes]:
        """The bytes of a file from an offset on, in pieces."""
        path = next(file.path for file in self.manifest.files if file.sha256 == sha256)
        with beneath.opened(self.folder) as folder, os.fdopen(beneath.open_file(folder, path), "rb") as stream:
            stream.seek(offset)
            while piece := stream.read(size):
                yield piece


def read_folder(folder: Path, *, task: str = "") -> ModelFolder:
    """List and digest a model's files. Cost: reads all of them once.

    Args:
        task: What the model is for; "" takes what its card says.

    Raises:
        RequestError: ARTIFACT_INVALID, ARTIFACT_PATH_ESCAPE, NAME_INVALID or FIELD_REQUIRED.
    """
    files, card = [], None
    with beneath.opened(folder) as root:
        for path in beneath.paths(root):
            check_path(path, "file")
            with os.fdopen(beneath.open_file(root, path), "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                files.append(ModelFile(path, digest, stream.tell()))
                if path == CARD_FILE:
                    stream.seek(0)
                    card = _card(stream.read(MAX_CARD_BYTES + 1))
            if len(files) > MAX_FILES:
                raise RequestError("ARTIFACT_INVALID", f"A model has at most {MAX_FILES} files.")
    if card is None:
        raise RequestError("FIELD_REQUIRED", f"The folder has no {CARD_FILE}; see deploy/docs/models.md for one.")
    name, meant = card.get("name"), task or card.get("task") or ""
    if not isinstance(name, str) or not isinstance(meant, str) or not meant:
        raise RequestError(
            "FIELD_REQUIRED", f"{CARD_FILE} must give the expert's name, and its task unless --task does."
        )
    return ModelFolder(folder, Manifest(check_name(name, "name"), check_name(meant, "task"), tuple(files)))


def _card(content: bytes) -> dict[str, Any]:
    try:
        card = json.loads(content) if len(content) <= MAX_CARD_BYTES else None
    except (ValueError, RecursionError):
        card = None
    if not isinstance(card, dict):
        raise RequestError(
            "ARTIFACT_INVALID", f"{CARD_FILE} must be one JSON object of at most {MAX_CARD_BYTES} bytes."
        )
    return card
