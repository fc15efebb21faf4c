"""The text arms of a process: single models and mixtures, every file loaded once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nodes.worker.sessions import LoadRefused, read_verified
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import LanguageModel, describe

MIXTURE_SUFFIX = ".mixture"


class Library:
    """All loaded text arms by key."""

    def __init__(self) -> None:
        self._models: dict[str, LanguageModel] = {}
        self._arms: dict[str, Mixture] = {}

    def load(self, arm: str, path: str, sha256: str, *, model: bytes | None = None) -> dict[str, Any]:
        """Make an arm ready, from a model or from a mixture that names models beside it.

        Args:
            model: The model's bytes where it is no file.

        Raises:
            LoadRefused: if a digest differs, a file is no language model, or vocabularies differ.
        """
        file = Path(path)
        if model is not None:
            self._models.setdefault(sha256, LanguageModel(file, sha256, model))
        mixture = (
            self._mixture(file, sha256)
            if file.suffix == MIXTURE_SUFFIX
            else Mixture([self._model(file, sha256)], [1.0])
        )
        self._arms[arm] = mixture
        return {"models": [describe(model) for model in mixture.models]}

    def unload(self, arm: str) -> None:
        """Forget an arm, and the models that no other arm has."""
        self._arms.pop(arm, None)
        used = {id(model) for mixture in self._arms.values() for model in mixture.models}
        self._models = {sha256: model for sha256, model in self._models.items() if id(model) in used}

    @property
    def digests(self) -> frozenset[str]:
        """Of the models that are loaded."""
        return frozenset(self._models)

    def arm(self, arm: str) -> Mixture:
        """The arm; KeyError where it is not loaded."""
        return self._arms[arm]

    def _model(self, file: Path, sha256: str) -> LanguageModel:
        if sha256 not in self._models:
            self._models[sha256] = LanguageModel(file, sha256)
        return self._models[sha256]

    def _mixture(self, file: Path, sha256: str) -> Mixture:
        try:
            members = json.loads(read_verified(file, sha256))["members"]
            models = [self._model(file.parent / Path(one["file"]).name, one["sha256"]) for one in members]
            weight_e = [float(one["weight"]) for one in members]
        except (KeyError, TypeError, ValueError) as problem:
            raise LoadRefused(f"{file.name} is no mixture") from problem
        if not models or min(weight_e) < 0.0 or sum(weight_e) <= 0.0:
            raise LoadRefused(f"{file.name} needs members with weights of 0 or more")
        if len({model.tokenizer.digest for model in models}) > 1:
            raise LoadRefused(f"the members of {file.name} have different vocabularies")
        return Mixture(models, weight_e)
