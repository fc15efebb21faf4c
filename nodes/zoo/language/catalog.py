"""The text experts that a node can offer: cards checked against files, arrays loaded when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays
from nodes.zoo.cards import CatalogError, read_card
from nodes.zoo.language.cards import TextExpertCard, TextTaskCard
from nodes.zoo.language.texts import questions_from
from nodes.zoo.skills.skill import Question

TEXT_FOLDER = Path(__file__).parent / "experts"
TASK_FILE = "task.json"
EVIDENCE = ("correct", "completion_tokens", "margin", "given", "given_ends")


@dataclass(frozen=True, eq=False)
class TextCatalog:
    """A verified folder of text experts, cheapest first."""

    folder: Path
    task: TextTaskCard
    experts: tuple[TextExpertCard, ...]

    def model_path(self, card: TextExpertCard) -> Path:
        """Where the weights of `card`, or the list of a mixture's members, lie."""
        return self.folder / card.file

    @cached_property
    def reference(self) -> Mapping[str, NDArray[Any]]:
        """The questions that the evidence answers, as they go over the wire."""
        return _arrays(self.folder / self.task.reference.file)

    @cached_property
    def test(self) -> list[Question]:
        """Questions that no expert, no evidence and no gate has seen."""
        return questions_from(_arrays(self.folder / self.task.test.file))

    def evidence_tensors(self, card: TextExpertCard) -> dict[str, NDArray[Any]]:
        """Answers of `card` to the reference, as they go over the wire.

        Raises:
            CatalogError: if some are missing, or not one for each question.
        """
        found = {name: self._evidence.get(f"{card.evidence_key}.{name}") for name in EVIDENCE}
        tensors = {name: array for name, array in found.items() if array is not None}
        questions = len(self.reference["prompt_ends"])
        per_question = [array for name, array in tensors.items() if name != "given"]
        if len(tensors) < len(EVIDENCE) or any(len(array) != questions for array in per_question):
            file = self.folder / self.task.evidence.file
            raise CatalogError(f"{file} has no {questions} answers of {card.evidence_key!r}. Make all anew.")
        return tensors

    @cached_property
    def _evidence(self) -> Mapping[str, NDArray[Any]]:
        return _arrays(self.folder / self.task.evidence.file)


def load_text_catalog(folder: Path | None = None) -> TextCatalog:
    """Read the cards in `folder` (the shipped experts by default) and check the digest of every file.

    Cost: reads all files once, about 10 MB and 20 ms for the shipped ones.

    Raises:
        CatalogError: A card or file is missing, malformed or does not match its digest.
    """
    folder = (folder or TEXT_FOLDER).resolve()
    task = read_card(folder / TASK_FILE, TextTaskCard)
    paths = sorted(path for path in folder.glob("*.json") if path.name != TASK_FILE)
    cards = [read_card(path, TextExpertCard) for path in paths]
    if not cards:
        raise CatalogError(f"{folder} has no expert cards (*.json). Point to a folder that has some.")
    for path, card in zip(paths, cards, strict=True):
        if card.name != path.stem or card.task != task.name:
            raise CatalogError(f"{path} describes {card.name!r} of task {card.task!r}. Name the card after its expert.")
        _check_digest(folder / card.file, card.sha256)
    for arrays in (task.reference, task.test, task.evidence):
        _check_digest(folder / arrays.file, arrays.sha256)
    return TextCatalog(folder, task, tuple(sorted(cards, key=lambda card: (card.macs, card.name))))


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise CatalogError(f"{path} is missing. Restore it.") from None
    if found != expected:
        raise CatalogError(f"{path} is not what its card describes: sha256 expected {expected}, found {found}.")


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        return read_arrays(path)
    except (OSError, ValueError) as damage:
        raise CatalogError(f"{path} cannot be read: {damage}") from damage
