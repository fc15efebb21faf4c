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
from optimizer.gate.feedback import TensorGate, encoder_digest
from optimizer.gate.gate import TextGate
from optimizer.gate.sentences import SentenceEncoder, digests_of
from optimizer.gate.tensors import TensorEncoder
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


@dataclass(frozen=True)
class StoredTensorGate:
    """A gate for tensors and which requests it was trained on.

    Args:
        gate: The gate.
        seen: Sorted hashes of the training requests' ids.
    """

    gate: TensorGate
    seen: NDArray[np.uint64]

    def knows(self, ids: Iterable[str]) -> NDArray[np.bool_]:
        """Which of these requests were trained on."""
        return np.asarray(np.isin(hashes(ids), self.seen))


def hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of each text, by which it is recognised but not told."""
    digests = (hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def save_gate(path: Path, gate: TextGate | TensorGate, seen: NDArray[np.uint64]) -> None:
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


def load_gate(path: Path, sentences: SentenceEncoder | None = None) -> StoredGate:
    """Read a gate for text.

    Args:
        path: A file that `save_gate` wrote.
        sentences: The sentence encoder that it was trained with, if it was.

    Raises:
        StudyError: As in `load_stored`, or it is a gate for tensors.
    """
    stored = load_stored(path, sentences)
    if isinstance(stored, StoredTensorGate):
        raise StudyError(f"{path.name}: it is a gate for tensors", "judge it with --feedback", what="gate refused")
    return stored


def load_stored(
    path: Path, sentences: SentenceEncoder | None = None, tensors: TensorEncoder | None = None
) -> StoredGate | StoredTensorGate:
    """Read a gate of either kind.

    Args:
        path: A file that `save_gate` wrote.
        sentences: The sentence encoder that a gate for texts was trained with, if it was.
        tensors: The encoder that a gate for tensors was trained with, likewise.

    Raises:
        StudyError: Not there, not a gate, of another version, or trained with another encoder.
    """
    cure = "train one with `edgewise gate train`"
    if not path.is_file():
        raise StudyError(f"{path}: no such file", cure, what="file not found", exit_code=ExitCode.NOT_FOUND)
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = dict(data)
        if "kind" in arrays:
            digest = encoder_digest(arrays)
            wanted, given = ((digest,) if digest else ()), ((tensors.digest,) if tensors else ())
            _check_encoder(path, wanted, given, kind="an encoder of tensors", option="--tensor-encoder")
            return StoredTensorGate(TensorGate.from_arrays(arrays, tensors), arrays["seen"])
        _check_encoder(path, digests_of(arrays), sentences.digests if sentences else ())
        return StoredGate(TextGate.from_arrays(arrays, sentences), arrays["seen"])
    except (EvidenceError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path.name}: it is not a gate that can be used", cure, what="gate refused") from error


def is_for_tensors(path: Path) -> bool:
    """Whether a gate's file says that it is for tensors; false for what is no gate at all."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return "kind" in data.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _check_encoder(
    path: Path,
    wanted: tuple[str, ...],
    given: tuple[str, ...],
    *,
    kind: str = "a sentence encoder",
    option: str = "--encoder",
) -> None:
    """The encoder and its tokenizer are those of the training, byte for byte."""
    if wanted == given:
        return
    if not wanted:
        why, cure = f"{path.name}: it was trained without {kind}", f"leave {option} out"
    elif not given:
        why, cure = f"{path.name}: it was trained with {kind}", f"add {option}, SHA-256 {wanted[0][:16]}…"
    else:
        part = "encoder" if wanted[0] != given[0] else "tokenizer"
        sha256 = [
            digests[part == "tokenizer"][:16] if len(digests) > (part == "tokenizer") else "none"
            for digests in (wanted, given)
        ]
        why = f"{path.name}: it was trained with another {part} (SHA-256 {sha256[0]}…, given {sha256[1]}…)"
        cure = "give the one of the training, or train again"
    raise StudyError(why, cure, what="gate refused")
