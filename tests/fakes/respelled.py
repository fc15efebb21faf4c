"""Experts of other vocabularies, made of those that ship: the same network, with other words or with ids in another
order. Vectors of the embedding, and of what reads out the scores, follow their words."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nodes.worker.text.model import LanguageModel
from nodes.worker.text.tokens import MARKS, Tokenizer
from nodes.zoo.language.catalog import TASK_FILE, TEXT_FOLDER, load_text_catalog

WORDS = "edgewise.words"
FIRST_WORD = 256 + MARKS


def respelled(expert: str, words: Sequence[str] | None, folder: Path) -> LanguageModel:
    """An expert with these of its words, in this order; its catalogue in a folder of its own, as a node reads it.

    Args:
        words: None for all, backwards.
    """
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == expert)
    folder.mkdir()
    for part in (catalog.task.reference, catalog.task.test, catalog.task.evidence):
        shutil.copy(catalog.folder / part.file, folder)
    shutil.copy(TEXT_FOLDER / TASK_FILE, folder)
    chosen = list(reversed(words_of(expert))) if words is None else list(words)
    content = _with_words(onnx.load(str(catalog.model_path(card))), chosen)
    (folder / card.file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    told = json.loads((TEXT_FOLDER / f"{expert}.json").read_text())
    told |= {"sha256": digest, "tokenizer_digest": Tokenizer(chosen).digest}
    (folder / f"{expert}.json").write_text(json.dumps(told))
    return LanguageModel(folder / card.file, digest)


def _with_words(model: onnx.ModelProto, chosen: Sequence[str]) -> bytes:
    told = {one.key: one.value for one in model.metadata_props}
    known: list[str] = json.loads(told[WORDS])
    kept = np.array([*range(FIRST_WORD), *(FIRST_WORD + known.index(word) for word in chosen)])
    for weight in model.graph.initializer:
        for axis, size in enumerate(weight.dims):
            if size == FIRST_WORD + len(known):
                array = np.take(numpy_helper.to_array(weight), kept, axis)
                weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    # What is said of shapes that have changed.
    del model.graph.value_info[:]
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_value == FIRST_WORD + len(known):
                dim.dim_value = len(kept)
    helper.set_model_props(model, told | {WORDS: json.dumps(chosen)})
    return bytes(model.SerializeToString())


def words_of(expert: str) -> tuple[str, ...]:
    """Those that an expert knows."""
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == expert)
    return LanguageModel(catalog.model_path(card), card.sha256).tokenizer.words
