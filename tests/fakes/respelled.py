"""Experts of other vocabularies, made of those that ship: the same network, with other words or with ids in another
order. Rows of the embedding, which also reads out the scores, follow their words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nodes.worker.text.tokens import MARKS, Tokenizer
from nodes.zoo.language.catalog import load_text_catalog

EMBEDDING = "embedding.weight.half"
WORDS = "edgewise.words"
FIRST_WORD = 256 + MARKS


def respelled(expert: str, words: Sequence[str] | None = None, *, path: Path) -> str:
    """Write an expert with these of its words, in this order; the digest of the file.

    Args:
        words: Some that it knows; None for all, backwards.
    """
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == expert)
    model = onnx.load(str(catalog.model_path(card)))
    told = {one.key: one.value for one in model.metadata_props}
    known: list[str] = json.loads(told[WORDS])
    chosen = list(reversed(known)) if words is None else list(words)
    embedding = next(one for one in model.graph.initializer if one.name == EMBEDDING)
    rows = [*range(FIRST_WORD), *(FIRST_WORD + known.index(word) for word in chosen)]
    embedding.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(embedding)[np.array(rows)], EMBEDDING))
    # Said of the scores' shape, which has changed.
    del model.graph.value_info[:]
    helper.set_model_props(model, told | {WORDS: json.dumps(chosen)})
    content = model.SerializeToString()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def words_of(expert: str) -> tuple[str, ...]:
    """Those that an expert knows."""
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == expert)
    model = onnx.load(str(catalog.model_path(card)))
    return Tokenizer(json.loads({one.key: one.value for one in model.metadata_props}[WORDS])).words
