"""Keys and values of prompts that were read before, so that a prompt with the same beginning reads only the rest.

Prompts are cut into blocks of `BLOCK_TOKENS`, and are always read block by block, whether something is kept or not: the
runtime gets the same shapes either way, so that an answer has the same bits. What was generated is not kept: it was
read token by token, with other roundings.

A block is found by the model, by everything before it, and by the scope of the request. A scope is what the gateway
made of tenant and user; nothing is shared between two of them, and nothing is kept without one.

Needs Python 3.10 and numpy.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.model import BLOCK_TOKENS, Cache, LanguageModel

Key = tuple[str, bytes]


class Shelf:
    """Blocks of all scopes, the longest unused leave first. One thread only.

    Args:
        limit_bytes: What all blocks may take together; 0 keeps none.
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._blocks: OrderedDict[Key, NDArray[np.float32]] = OrderedDict()

    def lend(self, scope: str, prompt: Sequence[int], model: LanguageModel, cache: Cache) -> int:
        """Copy the kept beginning of a prompt into an empty cache; its tokens.

        The last token is never among them: what follows it is not known before it was read.
        """
        found = []
        for key in self._keys(scope, model, prompt):
            if key not in self._blocks:
                break
            cache.add(self._blocks[key])
            found.append(key)
        self._touch(found)
        return len(found) * BLOCK_TOKENS

    def keep(self, scope: str, prompt: Sequence[int], model: LanguageModel, cache: Cache) -> None:
        """Keep the blocks of a prompt that a cache holds."""
        touched = []
        for number, key in enumerate(self._keys(scope, model, prompt)):
            start, end = number * BLOCK_TOKENS, (number + 1) * BLOCK_TOKENS
            if end > cache.tokens or not self.limit_bytes:
                break
            if key not in self._blocks:
                block = np.ascontiguousarray(cache.past[:, :, 0, :, start:end])
                self._blocks[key] = block
                self.bytes += block.nbytes
            touched.append(key)
        self._touch(touched)
        while self.bytes > self.limit_bytes:
            self.bytes -= self._blocks.popitem(last=False)[1].nbytes

    def retain(self, digests: Collection[str]) -> None:
        """Forget the blocks of all other models."""
        for key in [key for key in self._blocks if key[0] not in digests]:
            self.bytes -= self._blocks.pop(key).nbytes

    def _touch(self, keys: Sequence[Key]) -> None:
        # A block is of no use without those before it, so they leave later.
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    @staticmethod
    def _keys(scope: str, model: LanguageModel, prompt: Sequence[int]) -> Iterator[Key]:
        """Of the whole blocks before the last token; none without a scope."""
        chain = hashlib.sha256(scope.encode()).digest()
        for end in range(BLOCK_TOKENS, len(prompt) if scope else 0, BLOCK_TOKENS):
            block: NDArray[Any] = np.asarray(prompt[end - BLOCK_TOKENS : end], np.int64)
            chain = hashlib.sha256(chain + block.tobytes()).digest()
            yield model.digest, chain
