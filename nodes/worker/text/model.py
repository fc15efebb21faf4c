"""One decoder in ONNX Runtime: new tokens of several sequences in, what may follow out. One thread, CPU only.

Shapes: b rows, t new tokens, p past places, l layers, g key and value heads, k width of a head, v vocabulary.
Needs Python 3.10, numpy and onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.worker.sessions import LoadRefused, read_verified, session_of, verified
from nodes.worker.text.middle import middle_of, with_output
from nodes.worker.text.tokens import Tokenizer

CHUNK_TOKENS = 64
# Prompts are read in such blocks, see `nodes.worker.text.shelf`. Calls of fewer tokens cost more for each.
BLOCK_TOKENS = 64


class Cache:
    """Keys and values of one sequence in one model; grows in chunks."""

    def __init__(self, model: LanguageModel) -> None:
        self._limit = model.sizes["context_tokens"]
        self._data = np.zeros(
            (model.sizes["layers"], 2, 1, model.sizes["kv_heads"], CHUNK_TOKENS, model.sizes["head_width"]), np.float32
        )
        self.tokens = 0

    @property
    def past(self) -> NDArray[np.float32]:
        """What is held: (l, 2, 1, g, tokens, k)."""
        return self._data[:, :, :, :, : self.tokens]

    def cut(self, tokens: int) -> None:
        """Forget what is behind so many tokens."""
        self.tokens = min(self.tokens, tokens)

    def add(self, present: NDArray[np.float32]) -> None:
        """Append the keys and values of new tokens, (l, 2, g, t, k)."""
        tokens = self.tokens + present.shape[3]
        if tokens > self._data.shape[4]:
            places = min(self._limit, max(2 * self._data.shape[4], tokens))
            grown = np.zeros((*self._data.shape[:4], max(places, tokens), self._data.shape[5]), np.float32)
            grown[:, :, :, :, : self.tokens] = self.past
            self._data = grown
        self._data[:, :, 0, :, self.tokens : tokens] = present
        self.tokens = tokens


@dataclass(frozen=True)
class Row:
    """What one sequence feeds in one step.

    Attributes:
        delta_n: Its user's own; None for everybody's model.
        vector: Whether the state in the middle of the model is wanted and not what may follow.
        scored: Behind how many of the last tokens scores are wanted.
    """

    cache: Cache
    tokens: Sequence[int]
    delta_n: NDArray[np.float32] | None = None
    vector: bool = False
    scored: int = 1


class LanguageModel:
    """A loaded file of an expert.

    Args:
        path: The ONNX file, with sizes and words in its metadata.
        sha256: What its bytes must hash to.
        model: The bytes themselves where there is no file.

    Raises:
        LoadRefused: if the digest differs, or the file is no language model of ours.
    """

    def __init__(self, path: Path, sha256: str, model: bytes | None = None) -> None:
        content = read_verified(path, sha256) if model is None else verified(model, sha256, name=path.name)
        self._middle = middle_of(content)
        self._session = session_of(content if self._middle is None else with_output(content, self._middle))
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        # What a user's own delta has, which is an input of models that are made for it; 0 for all others.
        self.delta_numbers: int = shapes["delta"][-1] if "delta" in shapes else 0
        self.digest = sha256
        found = self._session.get_modelmeta().custom_metadata_map
        try:
            self.sizes: dict[str, int] = json.loads(found["edgewise.language"])
            self.tokenizer = Tokenizer(json.loads(found["edgewise.words"]))
        except (KeyError, ValueError) as problem:
            raise LoadRefused(f"{path.name} does not say what language model it is") from problem

    @property
    def makes_vectors(self) -> bool:
        """Whether rows may ask for vectors."""
        return self._middle is not None

    @property
    def context_tokens(self) -> int:
        """Most tokens that a sequence may have."""
        return self.sizes["context_tokens"]

    def macs(self, past: int, new: int) -> int:
        """Multiply-accumulates of `new` tokens behind `past` ones."""
        looks = new * past + new * (new + 1) // 2
        return new * self.sizes["macs_per_token"] + looks * self.sizes["macs_per_look"]

    def read_blocks(self, row: Row) -> Row:
        """Read what a row has before its last block; what is left of it. Of a row with more scores than one nothing.

        Cost: one call of the runtime for every block, whoever else is written.
        """
        tokens = row.tokens
        if row.scored > 1:
            return row
        while (size := BLOCK_TOKENS - row.cache.tokens % BLOCK_TOKENS) < len(tokens):
            self.step([replace(row, tokens=tokens[:size])])
            tokens = tokens[size:]
        return replace(row, tokens=tokens)

    def step(self, rows: Sequence[Row]) -> list[NDArray[Any]]:
        """Run all rows at once and grow their caches; of each row the logits (v) after its last token, or (scored, v)
        after its last ones, or their vectors.

        Cost: one call of the runtime; rows of different length are padded to the longest.
        """
        past_b = [row.cache.tokens for row in rows]
        new_b = [len(row.tokens) for row in rows]
        tokens_bt = np.zeros((len(rows), max(new_b)), np.int64)
        for i, row in enumerate(rows):
            tokens_bt[i, : new_b[i]] = row.tokens
        feed = {"tokens": tokens_bt, "past_tokens": np.array(past_b, np.int64), "past": _stacked(rows)}
        if self.delta_numbers:
            feed["delta"] = self._deltas(rows)
        wanted = self._middle if rows[0].vector else "logits"
        told_btv, present = self._session.run([wanted, "present"], feed)
        for i, row in enumerate(rows):
            row.cache.add(present[:, :, i, :, : new_b[i]])
        return [
            told_btv[i, new_b[i] - 1] if row.scored == 1 else told_btv[i, new_b[i] - row.scored : new_b[i]]
            for i, row in enumerate(rows)
        ]

    def _deltas(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Each row's own numbers, (b, 1, n); nothing for rows of nobody's."""
        deltas = np.zeros((len(rows), 1, self.delta_numbers), np.float32)
        for i, row in enumerate(rows):
            if row.delta_n is not None:
                deltas[i, 0] = row.delta_n
        return deltas


def _stacked(rows: Sequence[Row]) -> NDArray[np.float32]:
    if len(rows) == 1:
        return np.ascontiguousarray(rows[0].cache.past)
    places = max(row.cache.tokens for row in rows)
    first = rows[0].cache.past
    stacked = np.zeros((*first.shape[:2], len(rows), first.shape[3], places, first.shape[5]), np.float32)
    for i, row in enumerate(rows):
        stacked[:, :, i : i + 1, :, : row.cache.tokens] = row.cache.past
    return stacked


def describe(model: LanguageModel) -> dict[str, Any]:
    """What the agent is told about a loaded model."""
    return {**model.sizes, "tokenizer_digest": model.tokenizer.digest}
