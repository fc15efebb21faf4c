"""Encoders of tensors from files, and tables of tensors: what a gate for tensors is trained on beside feedback.

A table is an .npz: `inputs` (q, ...), `experts` (e), `quality` (q, e) with NaN where an expert did not answer, and
`task`, one name. Nothing in it is pickled.

Shape letters: q queries, e experts, n numbers of a tensor, s width of an embedding.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.feedback import TensorGate, fit_tensor_gate
from optimizer.gate.recorded import sketch_tensor
from optimizer.gate.tensors import TensorEncoder
from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError
from orchestrator.study.onnx_session import WHAT, open_model

Floats = NDArray[np.float64]

SUFFIX = ".npz"
_BATCH = 256
_CURE = "write inputs (q, ...), experts (e), quality (q, e) and task with numpy.savez"


def load_tensor_encoder(model: Path) -> TensorEncoder:
    """An encoder from an ONNX file.

    Args:
        model: Takes one tensor of floats, (batch, ...) with the other sides fixed, and gives (batch, s).

    Raises:
        StudyError: As in `open_model`, or it takes something else.
    """
    session, data = open_model(model)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    sides = inputs[0].shape[1:] if inputs else []
    fixed = bool(sides) and all(isinstance(side, int) and side > 0 for side in sides)
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not fixed or isinstance(inputs[0].shape[0], int):
        told = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        cure = "it must take one tensor of floats, (batch, ...), with a free batch and the other sides fixed"
        raise StudyError(f"{model.name}: it takes {told or 'nothing'}", cure, what=WHAT)
    encode = _Encode(model.name, session, (inputs[0].name, tuple(sides), outputs[0].name))
    return TensorEncoder(encode, hashlib.sha256(data).hexdigest())


class _Encode:
    """Embeddings of tensors, batch by batch.

    Raises:
        EvidenceError: Tensors of another size, or the runtime fails.
    """

    def __init__(self, name: str, session: Any, ends: tuple[str, tuple[int, ...], str]) -> None:
        self._name, self._session = name, session
        self._input, self._sides, self._output = ends
        self._numbers = math.prod(self._sides)

    def __call__(self, x_qn: NDArray[np.floating]) -> Floats:
        if x_qn.shape[1] != self._numbers:
            why = f"{self._name} takes tensors of {self._numbers} numbers {self._sides}, not {x_qn.shape[1]}."
            raise EvidenceError(why)
        x = x_qn.astype(np.float32).reshape(-1, *self._sides)
        if len(x) <= _BATCH:
            return self._batch(x)
        return np.vstack([self._batch(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)])

    def _batch(self, x: NDArray[np.float32]) -> Floats:
        try:
            (raw,) = self._session.run([self._output], {self._input: x})
        except Exception as error:  # the rim: the runtime makes its exceptions' classes as it goes
            raise EvidenceError(f"{self._name}: the runtime failed: {str(error).splitlines()[0][:160]}") from error
        return np.asarray(raw, dtype=np.float64)


@dataclass(frozen=True)
class TensorTable:
    """What every expert made of tensors of one task.

    Args:
        task: Its name.
        inputs_qn: Each tensor as its numbers in a row.
        experts: Names.
        quality_qe: 0 to 1; NaN where the expert did not answer.
    """

    task: str
    inputs_qn: Floats
    experts: tuple[str, ...]
    quality_qe: Floats

    @property
    def ids(self) -> list[str]:
        """What each tensor is recognised by when a gate is judged later."""
        return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in self.inputs_qn]


def read_tensor_table(path: Path) -> TensorTable:
    """Read a table of tensors.

    Raises:
        StudyError: Not there, not such a file, or its arrays do not fit together; says which.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file", "check the path", what="file not found", exit_code=ExitCode.NOT_FOUND)
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path.name}: it is not an .npz of plain arrays", _CURE) from error
    missing = [name for name in ("inputs", "experts", "quality", "task") if name not in arrays]
    if missing:
        raise StudyError(f"{path.name}: array {missing[0]} is missing", _CURE)
    inputs, quality, experts = arrays["inputs"], arrays["quality"], arrays["experts"]
    shape = (len(inputs) if inputs.ndim else 0, experts.size)
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiu" or quality.dtype.kind != "f" or quality.shape != shape:
        why = f"{path.name}: inputs {inputs.dtype} {inputs.shape}, experts {experts.shape}, quality {quality.shape}"
        raise StudyError(f"{why} do not fit together", _CURE)
    known = quality[np.isfinite(quality)]
    if not len(known) or known.min() < 0.0 or known.max() > 1.0 or not np.isfinite(inputs).all():
        raise StudyError(f"{path.name}: qualities must lie between 0 and 1, and inputs be finite", _CURE)
    rows = inputs.reshape(len(inputs), -1).astype(np.float64)
    return TensorTable(str(arrays["task"]), rows, tuple(map(str, experts.tolist())), quality.astype(np.float64))


def train_on_tensors(table: TensorTable, encoder: TensorEncoder | None, *, penalty: float | None) -> TensorGate:
    """A head per expert, on the encoder's embeddings or on sketches.

    Raises:
        StudyError: Tensors without an encoder that are too small to be sketched.
        EvidenceError: As in `fit_tensor_gate` and `TensorEncoder.features`.
    """
    features_qf = _features(table, encoder)
    rows_q, columns_q = np.nonzero(np.isfinite(table.quality_qe))
    experts = [table.experts[e] for e in columns_q.tolist()]
    quality_q = table.quality_qe[rows_q, columns_q]
    tasks = [table.task] * len(experts)
    return fit_tensor_gate(features_qf[rows_q], tasks, experts, quality_q, penalty=penalty, encoder=encoder)


def _features(table: TensorTable, encoder: TensorEncoder | None) -> Floats:
    if encoder is not None:
        return encoder.features(table.inputs_qn)
    sketches = [sketch for row in table.inputs_qn if (sketch := sketch_tensor(row)) is not None]
    if len(sketches) < len(table.inputs_qn):
        raise StudyError("tensors of fewer than 64 numbers have no sketch", "give a --tensor-encoder")
    return np.array(sketches)


def judge_on_tensors(
    gate: TensorGate, table: TensorTable, rows_q: NDArray[np.int64]
) -> dict[str, tuple[Floats, Floats]]:
    """What a gate says of some of a table's tensors and what was measured, by expert that has a head."""
    features_qf = _features(table, gate.encoder)[rows_q]
    found = {}
    for e, name in enumerate(table.experts):
        known_q = np.isfinite(table.quality_qe[rows_q, e])
        if (table.task, name) in set(zip(gate.tasks_h, gate.experts_h, strict=True)) and known_q.any():
            said_q = gate.quality(features_qf[known_q], table.task, name)
            found[name] = said_q, table.quality_qe[rows_q, e][known_q]
    return found
