"""Trained gates as files: numpy's npz without pickles, plus a hash of every prompt that took part in training."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.gate import TextGate
from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError


@dataclass(frozen=True)
class StoredGate:
    """A gate and which prompts it was trained on.

    Args:
        gate: The gate.
        seen: Sorted hashes of the training prompts.
    """

    gate: TextGate
    seen: NDArray[np.uint64]

    def knows(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """Which of these prompts were trained on; of an absent text nobody can say, so it counts as new."""
        kept = [*texts]
        filled = np.array([bool(text.strip()) for text in kept], dtype=np.bool_)
        return np.asarray(np.isin(hashes(kept), self.seen) & filled)


def hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of each text, by which it is recognised but not told."""
    digests = (hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def save_gate(path: Path, gate: TextGate, seen: NDArray[np.uint64]) -> None:
    """Write a gate; the new file replaces an old one in one step.

    Raises:
        StudyError: The file cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp.npz")
    try:
        np.savez_compressed(draft, allow_pickle=False, **gate.to_arrays(), seen=np.unique(seen))
        draft.replace(path)
    except OSError as error:
        why = f"{path}: {(error.strerror or 'cannot be written').lower()}"
        raise StudyError(
            why, "name a file in a folder that can be written", what="gate not saved", exit_code=ExitCode.FAILED
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def load_gate(path: Path) -> StoredGate:
    """Read a gate.

    Raises:
        StudyError: Not there, not a gate, or of another version.
    """
    cure = "train one with `edgewise gate train`"
    if not path.is_file():
        raise StudyError(f"{path}: no such file", cure, what="file not found", exit_code=ExitCode.NOT_FOUND)
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = dict(data)
        return StoredGate(TextGate.from_arrays(arrays), arrays["seen"])
    except (EvidenceError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path.name}: it is not a gate that can be used", cure, what="gate refused") from error
