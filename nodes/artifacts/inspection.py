"""Everything that is looked at before a model is installed: each file by its content, and all of them together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.artifacts import onnx_tables
from nodes.artifacts import safetensors as st
from nodes.artifacts.card import CARD_FILE, PushedCard, read_card
from nodes.artifacts.manifest import FileEntry, Manifest, check
from nodes.artifacts.onnx_check import OnnxLimits, check_onnx
from nodes.artifacts.onnx_tensors import Outside, check_numbers
from nodes.artifacts.sniffing import USE, refuse_foreign
from nodes.errors import ArtifactRefused

Open = Callable[[str], AbstractContextManager[memoryview]]
ONNX_SUFFIX = ".onnx"
EVIDENCE_TENSOR = "outputs"
_KINDS = {name: number for number, name in onnx_tables.NUMPY.items()}


@dataclass(frozen=True)
class Inspected:
    """A model that may be tried.

    Attributes:
        model: Its ONNX file.
        outside: Tensors that other files of it hold.
        evidence: Its answers (n, c) to the task's reference set; None where it brings none.
    """

    manifest: Manifest
    card: PushedCard
    model: FileEntry
    outside: tuple[Outside, ...]
    evidence: NDArray[Any] | None


def inspect(manifest: Manifest, open_blob: Open, limits: OnnxLimits | None = None) -> Inspected:
    """Check all files of a model; loads and runs nothing.

    Args:
        open_blob: Verified bytes of a file by its SHA-256.

    Raises:
        ArtifactRefused: the first thing that is wrong.

    Cost: reads every file once or twice.
    """
    check(manifest)
    for file in manifest.files:
        with open_blob(file.sha256) as content:
            if len(content) != file.size_bytes:
                raise ArtifactRefused("ARTIFACT_INVALID", f"{file.path} has another size than its manifest says.")
            refuse_foreign(content, file.path)
    card = _card(manifest, open_blob)
    model = _model(manifest, card)
    with open_blob(model.sha256) as content:
        report = check_onnx(content, manifest, model.path, limits)
    _check_outside(manifest, report.outside, open_blob)
    evidence = None if card.evidence is None else _evidence(manifest, card.evidence, open_blob)
    _refuse_others(manifest, {CARD_FILE, model.path, card.evidence, *(one.path for one in report.outside)})
    return Inspected(manifest, card, model, tuple(report.outside), evidence)


def _card(manifest: Manifest, open_blob: Open) -> PushedCard:
    entry = manifest.file(CARD_FILE)
    if entry is None:
        raise ArtifactRefused("ARTIFACT_INVALID", f"The model has no {CARD_FILE}.")
    with open_blob(entry.sha256) as content:
        card = read_card(content)
    if card.name != manifest.name or card.task not in (None, manifest.task):
        raise ArtifactRefused("ARTIFACT_INVALID", f"{CARD_FILE} is that of another model, or for another task.")
    return card


def _model(manifest: Manifest, card: PushedCard) -> FileEntry:
    if card.file:
        entry = manifest.file(card.file)
        if entry is None:
            raise ArtifactRefused("ARTIFACT_INVALID", f"The file that {CARD_FILE} names was not pushed with it.")
        return entry
    found = [file for file in manifest.files if file.path.endswith(ONNX_SUFFIX)]
    if len(found) != 1:
        others = [file for file in manifest.files if file.path != CARD_FILE]
        reason = "ARTIFACT_INVALID" if found or not others else "FORMAT_NOT_ALLOWED"
        raise ArtifactRefused(reason, f"A model has one ONNX file, or {CARD_FILE} names it as file. {USE}")
    return found[0]


def _check_outside(manifest: Manifest, outside: list[Outside], open_blob: Open) -> None:
    for path in sorted({one.path for one in outside}):
        entry = manifest.file(path)
        if entry is None:
            continue
        with open_blob(entry.sha256) as content:
            for one in outside:
                if one.path == path and one.size_bytes > np.dtype(one.dtype).itemsize:
                    check_numbers(_KINDS[one.dtype], content[one.offset : one.offset + one.size_bytes])


def _evidence(manifest: Manifest, path: str, open_blob: Open) -> NDArray[Any]:
    entry = manifest.file(path)
    if entry is None:
        raise ArtifactRefused("ARTIFACT_INVALID", f"The evidence that {CARD_FILE} names was not pushed with it.")
    with open_blob(entry.sha256) as content:
        outputs = st.read(content, path).get(EVIDENCE_TENSOR)
        if outputs is None or outputs.ndim != 2 or (outputs < 0).any():
            text = f"{path} must hold the tensor {EVIDENCE_TENSOR} (samples, labels) of numbers that are not negative."
            raise ArtifactRefused("ARTIFACT_INVALID", text)
        return outputs.astype(np.float32)


def _refuse_others(manifest: Manifest, used: set[str | None]) -> None:
    for file in manifest.files:
        if file.path not in used:
            text = f"{file.path} is none of the files that this model is made of; leave it out. {USE}"
            raise ArtifactRefused("FORMAT_NOT_ALLOWED", text)
