"""Outcomes of answered requests as told by feedback, kept in a bounded file: what a gate can be trained from.

A line says which expert answered and how good that was. Queries are never written. Features that were hashed from them
are, only if the operator says so (`feedback.features`); until feedback comes they are held in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from optimizer.gate.recorded import count_text, sketch_tensor
from orchestrator.journal import Entry
from orchestrator.types import TextQuery

log = structlog.get_logger("feedback")

FILE, OLDER = "feedback.jsonl", "feedback.1.jsonl"
MIB = 1 << 20
# Requests whose features wait for feedback, and ids that had theirs.
_WAITING = 2_000
_RATED = 10_000
_DIGITS = 4

Features = dict[str, Any]
# Of a request that a vote or a judge answered: which, and the quality of the best of its experts.
Foreseen = Callable[[Entry], tuple[str, float] | None]


class Outcomes:
    """Writes feedback down.

    Args:
        folder: Where; None keeps nothing.
        features: Whether features are written beside the outcome.
        limit_bytes: Of both files together; the older half is forgotten first. 0 keeps nothing.
        now_unix_s: Tells the time.
        foreseen: What was foreseen of a route of several experts; None for one expert.
        learn: Takes it with task and score: (task, route, foreseen, score).
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        features: bool = False,
        limit_bytes: int = 64 * MIB,
        now_unix_s: Callable[[], float] = time.time,
        foreseen: Foreseen = lambda _entry: None,
        learn: Callable[[str, str, float, float], None] = lambda *_told: None,
    ) -> None:
        self._foreseen, self._learn = foreseen, learn
        self._place = folder
        self.configure(features=features, limit_bytes=limit_bytes)
        self._now_unix_s = now_unix_s
        self._waiting: OrderedDict[str, Features] = OrderedDict()
        self._rated: OrderedDict[str, None] = OrderedDict()

    def configure(self, *, features: bool, limit_bytes: int) -> None:
        """Change what is kept, from now on."""
        self._folder = self._place if limit_bytes else None
        self.hashing = features and self._folder is not None
        self._limit_bytes = limit_bytes

    def answered_tensor(self, request_id: str, x: NDArray[Any]) -> None:
        """Hold the sketch of a tensor that was answered, until feedback comes."""
        if self.hashing:
            self._hold(request_id, lambda: _of_tensor(x))

    def answered_text(self, query: TextQuery) -> None:
        """Hold the hashed counts of a text that was answered, until feedback comes."""
        if self.hashing:
            self._hold(query.request_id, lambda: _of_text("\n".join([said.content for said in query.messages])))

    def _hold(self, request_id: str, features: Callable[[], Features]) -> None:
        self._rated.pop(request_id, None)
        try:
            self._waiting[request_id] = features()
        except Exception as error:  # the rim: a request that was answered does not fail over its features
            log.warning("feedback.not_hashed", why=f"{type(error).__name__}: {error}")
        if len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)

    def rate(self, entry: Entry, score: float) -> bool:
        """Write down how good an answer was, once per request; true where it was.

        Cost: one append to a file, without waiting for the disk.
        """
        features = self._waiting.pop(entry.request_id, {})
        answered = [attempt.arm for attempt in entry.routing.attempts if attempt.outcome == "answered"]
        if entry.outcome != "answered" or not answered or entry.request_id in self._rated:
            return False
        self._rated[entry.request_id] = None
        if len(self._rated) > _RATED:
            self._rated.popitem(last=False)
        fused = self._foreseen(entry)
        if fused is not None:
            self._learn(entry.task, *fused, score)
        if self._folder is None:
            return False
        row = {
            "request_id": entry.request_id,
            "at_unix_s": round(self._now_unix_s(), 3),
            "task": entry.task,
            "expert": expert_of(answered[-1]),
            "arms": answered,
            "alone": _alone(entry, answered),
            "quality": score,
            **({} if fused is None else {"fused": fused}),
            **features,
        }
        return self._append(json.dumps(row, separators=(",", ":"), allow_nan=False))

    def learn_again(self) -> None:
        """Learn what earlier runs of the gateway have written down of votes and judges, the older file first."""
        if self._folder is None:
            return
        for name in (OLDER, FILE):
            for task, route, said, score in _fused_rows(self._folder / name):
                self._learn(task, route, said, score)

    def _append(self, line: str) -> bool:
        assert self._folder is not None
        file = self._folder / FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if file.exists() and file.stat().st_size + len(line) > self._limit_bytes // 2:
                file.replace(self._folder / OLDER)
            # Readable by the operator alone: hashed features still tell something about queries.
            handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            log.warning("feedback.not_kept", why=str(error))
            return False
        return True


def _fused_rows(file: Path) -> Iterator[tuple[str, str, float, float]]:
    """Task, route, what was foreseen and the score of every line that has them; one that is damaged is passed over."""
    with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # Most lines are of one expert, and long.
            if '"fused":[' not in line:
                continue
            try:
                row = json.loads(line)
                route, said = row["fused"]
                yield str(row["task"]), str(route), float(said), float(row["quality"])
            except (ValueError, KeyError, TypeError):
                log.warning("feedback.line_not_read", file=str(file))


def expert_of(arm: str) -> str:
    """``expert`` of ``expert:variant@node``."""
    return arm.partition(":")[0]


def _alone(entry: Entry, answered: list[str]) -> bool:
    """Whether one expert answered by itself and nothing but the query's features decided that."""
    route = entry.decision.route if entry.decision is not None else None
    return route is not None and len(route.route.experts) == 1 and len({*map(expert_of, answered)}) == 1


def _of_tensor(x: NDArray[Any]) -> Features:
    sketch_f = sketch_tensor(x)
    return {} if sketch_f is None else {"sketch": np.round(sketch_f, _DIGITS).tolist()}


def _of_text(text: str) -> Features:
    counts = count_text(text)
    structure = np.round(counts.structure_s, _DIGITS).tolist()
    return {"buckets": counts.bucket_n.tolist(), "weights": counts.weight_n.tolist(), "structure": structure}
