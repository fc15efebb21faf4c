"""From feedback that a gateway wrote down to trained heads, and how good heads are on other feedback.

Only queries that one expert answered alone count, each for its own expert; see `optimizer.gate.feedback` for why that
is enough. Shape letters: q queries, f features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from optimizer.gate.encoder import BUCKETS
from optimizer.gate.feedback import TensorGate, fit_tensor_gate, fit_text_gate
from optimizer.gate.gate import TextGate
from optimizer.gate.recorded import SKETCH, STATISTICS, Counts, features_of
from optimizer.gate.reference import PREFIX_BYTES, STRUCTURE, WEIGHT
from orchestrator.errors import ExitCode
from orchestrator.outcomes import FILE, OLDER
from orchestrator.study.errors import StudyError
from orchestrator.study.judging import judged
from orchestrator.study.store import StoredGate, StoredTensorGate
from orchestrator.study.tables import Note

Floats = NDArray[np.float64]

_MOST = 3 * PREFIX_BYTES + 16
# Bytes of one line; the longest that a gateway writes has less.
_MAX_LINE = 1 << 20
_WHAT = "feedback refused"
_Bucket = Annotated[int, Field(ge=0, lt=BUCKETS)]
_Weight = Annotated[int, Field(ge=-WEIGHT * _MOST, le=WEIGHT * _MOST)]
_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]


class Row(BaseModel):
    """One line; lines of later versions may hold more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    request_id: str
    task: str
    expert: str = Field(min_length=1)
    alone: bool
    quality: float = Field(ge=0.0, le=1.0)
    buckets: list[_Bucket] | None = Field(default=None, max_length=_MOST)
    weights: list[_Weight] | None = Field(default=None, max_length=_MOST)
    structure: list[_Number] | None = Field(default=None, min_length=STRUCTURE, max_length=STRUCTURE)
    sketch: list[_Number] | None = Field(default=None, min_length=SKETCH + STATISTICS, max_length=SKETCH + STATISTICS)

    @model_validator(mode="after")
    def _fits(self) -> Row:
        given = [part is not None for part in (self.buckets, self.weights, self.structure)]
        if any(given) != all(given) or len(self.buckets or ()) != len(self.weights or ()):
            raise ValueError("buckets, weights and structure belong together")
        return self

    @property
    def is_text(self) -> bool:
        """Whether it has features of a text."""
        return self.buckets is not None

    @property
    def counts(self) -> Counts:
        """Features of a text."""
        bucket_n, weight_n = np.array(self.buckets, dtype=np.int64), np.array(self.weights, dtype=np.int64)
        return Counts(bucket_n, weight_n, np.array(self.structure))


@dataclass(frozen=True)
class Rated:
    """Feedback to queries of one kind, each answered by one expert alone."""

    rows: tuple[Row, ...]
    is_text: bool

    @property
    def tasks(self) -> list[str]:
        """Task of each query."""
        return [row.task for row in self.rows]

    @property
    def quality_q(self) -> Floats:
        """How good each answer was."""
        return np.array([row.quality for row in self.rows])

    @property
    def sketch_qf(self) -> Floats:
        """Features of tensors."""
        return np.array([row.sketch for row in self.rows], dtype=np.float64)

    @property
    def ids(self) -> list[str]:
        """What each is recognised by when a gate is judged later."""
        return [row.request_id for row in self.rows]


def read_feedback(path: Path, tasks: Sequence[str], *, note: Note) -> Rated:
    """Feedback of a gateway's state folder, or of a file of such lines.

    Args:
        path: The folder or the file.
        tasks: Only these; all when empty.
        note: Is told what was passed over.

    Raises:
        StudyError: Not there, nothing to learn from, or both texts and tensors.
    """
    lines = [line for file in _files(path) for line in _lines(file)]
    rows = [row for line in lines if (row := _row(line)) is not None]
    if len(rows) < len(lines):
        note(f"{len(lines) - len(rows)} of {len(lines)} lines cannot be read and are passed over")
    wanted = [row for row in rows if not tasks or row.task in tasks]
    alone = [row for row in wanted if row.alone]
    if len(alone) < len(wanted):
        note(f"{len(wanted) - len(alone)} answers of several experts together are passed over")
    used = [row for row in alone if row.is_text or row.sketch is not None]
    if not used:
        why = f"{path}: none of {len(lines)} lines has features of a query that one expert answered alone"
        raise StudyError(why, "set feedback.features: true in the gateway's configuration", what=_WHAT)
    if len({row.is_text for row in used}) > 1:
        raise StudyError(f"{path}: it holds texts and tensors", "choose tasks of one kind with --task", what=_WHAT)
    if len(used) < len(alone):
        note(f"{len(alone) - len(used)} outcomes without features are passed over")
    return Rated(tuple(used), used[0].is_text)


def train_rated(rated: Rated, *, penalty: float | None = None) -> TextGate | TensorGate:
    """Heads from feedback.

    Raises:
        EvidenceError: Too little to learn from.
        NativeMissing: The compiled part is not built.
    """
    experts = [row.expert for row in rated.rows]
    if not rated.is_text:
        return fit_tensor_gate(rated.sketch_qf, rated.tasks, experts, rated.quality_q, penalty=penalty)
    named_q = np.array(experts)
    quality_of = {name: np.where(named_q == name, rated.quality_q, np.nan) for name in sorted(set(experts))}
    return fit_text_gate([row.counts for row in rated.rows], rated.tasks, quality_of, penalty=penalty)


def judge_rated(stored: StoredGate | StoredTensorGate, rated: Rated, *, note: Note) -> list[dict[str, Any]]:
    """How good a gate's estimates are for feedback that it was not trained on, by expert.

    Raises:
        StudyError: The gate is for the other kind of query, needs the texts, or knows all of the feedback.
    """
    if rated.is_text != isinstance(stored, StoredGate):
        kind = "texts" if rated.is_text else "tensors"
        raise StudyError(f"the feedback is about {kind}, the gate is not", "give a gate of that kind", what=_WHAT)
    fresh = [row for row, known in zip(rated.rows, stored.knows(rated.ids), strict=True) if not known]
    if len(fresh) < len(rated.rows):
        note(f"{len(rated.rows) - len(fresh)} of {len(rated.rows)} were trained on and do not count")
    if not fresh:
        raise StudyError("all of the feedback was trained on", "give feedback that came later", what=_WHAT)
    new = Rated(tuple(fresh), rated.is_text)
    predicted_q = _of_texts(stored, new) if isinstance(stored, StoredGate) else _of_tensors(stored, new)
    named_q = np.array([row.expert for row in new.rows])
    found = []
    for name in sorted(set(named_q.tolist())):
        rows = (named_q == name) & np.isfinite(predicted_q)
        if not rows.any():
            note(f"{name}: no head; passed over")
            continue
        found.append(judged(name, predicted_q[rows], new.quality_q[rows]))
    return found


def _of_texts(stored: StoredGate, rated: Rated) -> Floats:
    gate = stored.gate
    if gate.encoder.sentences is not None:
        raise StudyError("the gate has a sentence encoder; feedback has no texts", "judge it with --table", what=_WHAT)
    predicted_qe = gate.judge(features_of(gate.encoder, [row.counts for row in rated.rows]), rated.tasks)
    place = {name: e for e, name in enumerate(gate.experts)}
    values = [predicted_qe[q, place[row.expert]] if row.expert in place else np.nan for q, row in enumerate(rated.rows)]
    return np.array(values)


def _of_tensors(stored: StoredTensorGate, rated: Rated) -> Floats:
    out_q = np.full(len(rated.rows), np.nan)
    known = set(zip(stored.gate.tasks_h, stored.gate.experts_h, strict=True))
    pairs = [(row.task, row.expert) for row in rated.rows]
    for pair in known & set(pairs):
        rows = [q for q, own in enumerate(pairs) if own == pair]
        out_q[rows] = stored.gate.quality(rated.sketch_qf[rows], *pair)
    return out_q


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [path / name for name in (OLDER, FILE) if (path / name).is_file()]
        if found:
            return found
        why, cure = f"{path}: no {FILE} in it", "name the gateway's state_dir; `edgewise feedback` fills it"
        raise StudyError(why, cure, what="no feedback", exit_code=ExitCode.NOT_FOUND)
    if not path.is_file():
        raise StudyError(f"{path}: no such file", "check the path", what="file not found", exit_code=ExitCode.NOT_FOUND)
    return [path]


def _lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as stream:
            return [line for line in stream if line.strip()]
    except OSError as error:
        why = f"{path.name}: {(error.strerror or 'cannot be read').lower()}"
        raise StudyError(why, "check its permissions", what=_WHAT) from error


def _row(line: bytes) -> Row | None:
    """The row of a line; None for one that was cut off or is something else."""
    if len(line) > _MAX_LINE:
        return None
    try:
        return Row.model_validate_json(line)
    except ValidationError:
        return None
