"""Answers that were given before, for exactly the same request of the same tenant: no work, no joules.

Off unless the configuration says so. Only requests that fix their answer are looked up (a temperature of 0, or a seed),
and only complete answers are kept, in memory alone. The key is the SHA-256 of everything that was asked, of who asked,
and of the models that could have answered; prompts themselves are not kept.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.types import Arm, TextQuery


@dataclass(frozen=True)
class Kept:
    """One answer, as the JSON of its reply."""

    document: bytes
    until_s: float


class AnswerCache:
    """The newest used answers. One event loop owns it.

    Args:
        max_bytes: What all answers may take together.
        ttl_s: How long an answer is given again.
        clock: Monotonic seconds.
    """

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._ttl_s, self._clock = max_bytes, ttl_s, clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> bytes | None:
        """The answer to exactly this, if it is kept and not too old."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._clock() >= kept.until_s:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.document

    def put(self, key: bytes, document: bytes) -> None:
        """Keep an answer; the longest unused leave for it. One that is larger than everything is not kept."""
        self._drop(key)
        if len(document) > self._max_bytes:
            return
        while self._bytes + len(document) > self._max_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[key] = Kept(document, self._clock() + self._ttl_s)
        self._bytes += len(document)

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.document)


def is_fixed(query: TextQuery) -> bool:
    """Whether the same request may be given the same answer."""
    return query.parameters.temperature == 0.0 or query.parameters.seed is not None


def answer_key(tenant: str, path: str, asked: bytes, arms: Iterable[Arm]) -> bytes:
    """SHA-256 of who asks what, and of the models of the task: a new version of one answers anew.

    Args:
        asked: Everything that was said, in one form for all ways of saying the same.
    """
    models = sorted({f"{arm.expert}:{arm.variant}:{arm.model_digest}" for arm in arms})
    mark = hashlib.sha256()
    for part in (tenant.encode(), path.encode(), asked, *(model.encode() for model in models)):
        mark.update(len(part).to_bytes(8, "big") + part)
    return mark.digest()
