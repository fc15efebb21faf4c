"""Which models are in force and where they go: one small file, replaced as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.artifacts.types import Manifest, ModelFile, ModelRecord
from orchestrator.durable import save_json
from orchestrator.errors import EdgewiseError

VERSION = 1


class Register:
    """Models by name.

    Args:
        file: Where they are kept.

    Raises:
        EdgewiseError: STORE_CORRUPT.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.models: dict[str, ModelRecord] = {}
        if file.exists():
            self._read()

    def _read(self) -> None:
        try:
            tree = json.loads(self._file.read_bytes())
            if tree["version"] != VERSION:
                raise ValueError(tree["version"])
            records = [_record(entry) for entry in tree["models"]]
        except (ValueError, KeyError, TypeError, OSError) as error:
            text = f"{self._file} cannot be read; restore it, or move it away and push the models again."
            raise EdgewiseError("STORE_CORRUPT", text) from error
        self.models = {record.manifest.name: record for record in records}

    def put(self, record: ModelRecord) -> None:
        """A model is in force; it replaces one of the same name. Blocks for an fsync."""
        self.models[record.manifest.name] = record
        self._write()

    def drop(self, name: str) -> None:
        """A model is in force no longer. Blocks for an fsync."""
        del self.models[name]
        self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tree = {"version": VERSION, "models": [asdict(record) for record in self.models.values()]}
        save_json(self._file, tree, indent=1)


def _record(entry: dict[str, Any]) -> ModelRecord:
    told = entry["manifest"]
    files = tuple(ModelFile(**file) for file in told["files"])
    return ModelRecord(
        Manifest(told["name"], told["task"], files), tuple(entry["nodes"]), float(entry["pushed_unix_s"])
    )
