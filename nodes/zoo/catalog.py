"""The experts that a node can offer: cards checked against files, arrays loaded when first asked for.

Shapes: n samples, c classes; a sample has the dimensions of the task's input after the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays, restore_probabilities
from nodes.zoo.cards import ArrayFile, CatalogError, ExpertCard, Quality, TaskCard, TensorCard, read_card

__all__ = [
    "Catalog",
    "CatalogError",
    "ExpertCard",
    "Quality",
    "Samples",
    "TaskCard",
    "TensorCard",
    "load_catalog",
]

DEFAULT_FOLDER = Path(__file__).parent / "digits"
TASK_FILE = "task.json"


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and what they are.

    Attributes:
        inputs: (n, ...) in the task's input type.
        labels_n: uint8 (n,), index into the task's labels.
    """

    inputs: NDArray[Any]
    labels_n: NDArray[np.uint8]

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """As they go over the wire and into the digest."""
        return {"inputs": self.inputs, "labels": self.labels_n}


@dataclass(frozen=True, eq=False)
class Catalog:
    """A verified folder of experts of one task, cheapest first."""

    folder: Path
    task: TaskCard
    experts: tuple[ExpertCard, ...]

    def expert(self, name: str) -> ExpertCard:
        """Find an expert by name.

        Raises:
            CatalogError: There is none; the text lists those that exist.
        """
        for card in self.experts:
            if card.name == name:
                return card
        known = ", ".join(card.name for card in self.experts)
        raise CatalogError(f"No expert {name!r} in {self.folder}. Known are: {known}.")

    def model_path(self, card: ExpertCard) -> Path:
        """Where the weights of `card` lie."""
        return self.folder / card.file

    @cached_property
    def reference(self) -> Samples:
        """The samples that `evidence` answers."""
        return self._samples(self.task.reference)

    @cached_property
    def held_out(self) -> Samples:
        """Samples that neither a shipped expert nor its evidence has seen."""
        return self._samples(self.task.held_out)

    def evidence(self, card: ExpertCard) -> NDArray[np.float32]:
        """Answers (n, c) of `card` to the reference, none of them to a sample seen in training.

        Raises:
            CatalogError: The answers are missing, not finite, or do not fit reference and labels.
        """
        halves_nc = self._evidence_arrays.get(card.evidence_key)
        expected = (len(self.reference.labels_n), len(self.task.labels))
        if halves_nc is None or halves_nc.shape != expected or not np.isfinite(halves_nc).all():
            file = self.folder / self.task.evidence.file
            raise CatalogError(f"{file} has no finite {expected} array {card.evidence_key!r}. {_repair(self.folder)}")
        return restore_probabilities(halves_nc)

    def evidence_tensors(self, card: ExpertCard) -> dict[str, NDArray[Any]]:
        """The evidence as it goes over the wire and into the digest."""
        return {"outputs": self.evidence(card)}

    @cached_property
    def _evidence_arrays(self) -> Mapping[str, NDArray[Any]]:
        return _arrays(self.folder / self.task.evidence.file)

    def _samples(self, source: ArrayFile) -> Samples:
        arrays = _arrays(self.folder / source.file)
        try:
            inputs, labels_n = arrays["inputs"], arrays["labels"]
        except KeyError as missing:
            raise CatalogError(f"{self.folder / source.file} has no array {missing}.") from None
        shape = self.task.input.shape[1:]
        if inputs.shape != (len(labels_n), *shape):
            raise CatalogError(
                f"{self.folder / source.file}: inputs are {inputs.shape}, not (n, *{shape}) with n labels."
            )
        return Samples(inputs.astype(self.task.input.dtype), labels_n.astype(np.uint8))


def load_catalog(folder: Path | None = None) -> Catalog:
    """Read the cards in `folder` (the shipped digits by default) and check the digest of every file.

    Cost: reads all files once, about 1 MB and 10 ms for the shipped digits.

    Raises:
        CatalogError: A card or file is missing, malformed or does not match its digest.
    """
    folder = (folder or DEFAULT_FOLDER).resolve()
    task = read_card(folder / TASK_FILE, TaskCard)
    paths = sorted(path for path in folder.glob("*.json") if path.name != TASK_FILE)
    cards = [read_card(path, ExpertCard) for path in paths]
    if not cards:
        raise CatalogError(f"{folder} has no expert cards (*.json). Point to a folder that has some.")
    for path, card in zip(paths, cards, strict=True):
        _check_card(path, card, task)
        _check_digest(folder / card.file, card.sha256)
    for arrays in (task.reference, task.held_out, task.evidence):
        _check_digest(folder / arrays.file, arrays.sha256)
    return Catalog(folder, task, tuple(sorted(cards, key=lambda card: (card.macs, card.name))))


def _check_card(path: Path, card: ExpertCard, task: TaskCard) -> None:
    if card.name != path.stem:
        raise CatalogError(f"{path} describes {card.name!r}. Name the card after its expert.")
    if card.task != task.name:
        raise CatalogError(f"{path} is for task {card.task!r}, its folder for {task.name!r}. Move it.")


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise CatalogError(f"{path} is missing. {_repair(path.parent)}") from None
    if found != expected:
        raise CatalogError(
            f"{path} is not the file that its card describes: sha256 expected {expected}, found {found}."
            f" {_repair(path.parent)}"
        )


def _repair(folder: Path) -> str:
    return f"Restore the file, or make all anew: python -m nodes.zoo train --out {folder}"


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(path)
    except (OSError, ValueError) as damage:
        raise CatalogError(f"{path} cannot be read: {damage} {_repair(path.parent)}") from damage
