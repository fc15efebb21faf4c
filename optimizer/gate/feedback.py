"""Gates from feedback: each expert's head from the queries that it answered alone, and from no others.

Which expert answered was chosen by looking at the query's features at most, never at how good its answer would be, so
the outcomes of its own queries are an honest sample given the features, and a head (quality given features) needs no
weights. That is why answers of cascades and fusions must be left out by the caller: there, who answered depends on how
sure an expert was. It is also why a head knows little about queries that its expert is never sent.

Shape letters: q queries, f features, h heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.design import make_design
from optimizer.gate.encoder import fit_encoder_of
from optimizer.gate.gate import TextGate
from optimizer.gate.head import fit_head
from optimizer.gate.recorded import SKETCH, STATISTICS, Counts, features_of, matrix_of, sketch_tensor
from optimizer.gate.tensors import TensorEncoder

Floats = NDArray[np.float64]
Array = NDArray[np.generic]

KIND = "tensors"
_WIDTH = SKETCH + STATISTICS
_DIGEST = "tensor_encoder_digest"


@dataclass(frozen=True)
class TensorGate:
    """Estimated quality of experts for tensors.

    Args:
        tasks_h: Task of each head.
        experts_h: Its expert.
        weights_hf: On the features.
        bias_h: Likewise.
        calibration_error_h: On queries that the head had not seen.
        encoder: What makes features of a tensor; None for the sketch.
    """

    tasks_h: tuple[str, ...]
    experts_h: tuple[str, ...]
    weights_hf: Floats
    bias_h: Floats
    calibration_error_h: Floats
    encoder: TensorEncoder | None = None

    def __post_init__(self) -> None:
        heads = len(self.tasks_h)
        width = self.weights_hf.shape[-1] if self.encoder else _WIDTH
        shapes = (self.weights_hf.shape, self.bias_h.shape, self.calibration_error_h.shape)
        if not heads or len(self.experts_h) != heads or shapes != ((heads, width), (heads,), (heads,)):
            raise EvidenceError("Heads of a gate for tensors do not fit together.")
        if not np.isfinite(self.weights_hf).all() or not np.isfinite(self.bias_h).all():
            raise EvidenceError("Weights of a gate for tensors must be finite.")

    def features(self, x_f: NDArray[Any]) -> Floats | None:
        """What heads look at in one tensor, (f,); None where it cannot be read.

        Cost: 90 µs for the sketch of 64 numbers; with an encoder what that takes.
        """
        if self.encoder is None:
            return sketch_tensor(x_f)
        try:
            features_f = self.encoder.features(x_f.reshape(1, -1))[0]
        except EvidenceError:
            return None
        return features_f if len(features_f) == self.weights_hf.shape[1] else None

    def quality(self, sketch_qf: Floats, task: str, expert: str) -> Floats:
        """Quality of an expert for queries of a task, (q,), within 0 and 1, from their features.

        Raises:
            KeyError: There is no such head.
        """
        heads = [*zip(self.tasks_h, self.experts_h, strict=True)]
        if (task, expert) not in heads:
            raise KeyError(f"{expert} of {task}")
        h = heads.index((task, expert))
        return np.asarray(np.clip(sketch_qf @ self.weights_hf[h] + self.bias_h[h], 0.0, 1.0))

    def to_arrays(self) -> dict[str, Array]:
        """Plain arrays that `from_arrays` takes."""
        encoder = {} if self.encoder is None else {_DIGEST: np.array(self.encoder.digest)}
        return {
            **encoder,
            "kind": np.array(KIND),
            "tasks_h": np.array(self.tasks_h, dtype=np.str_),
            "experts_h": np.array(self.experts_h, dtype=np.str_),
            "weights_hf": self.weights_hf,
            "bias_h": self.bias_h,
            "calibration_error_h": self.calibration_error_h,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], encoder: TensorEncoder | None = None) -> TensorGate:
        """A gate from its arrays, with the encoder that it was trained with, if it was.

        Raises:
            EvidenceError: Arrays that are missing or do not fit together, or another encoder.
        """
        if encoder_digest(arrays) != (encoder.digest if encoder else ""):
            raise EvidenceError("The gate was trained with another encoder of tensors.")
        try:
            tasks_h, experts_h = (tuple(map(str, arrays[name].tolist())) for name in ("tasks_h", "experts_h"))
            names = ("weights_hf", "bias_h", "calibration_error_h")
            weights_hf, bias_h, error_h = (np.asarray(arrays[name], dtype=np.float64) for name in names)
            return cls(tasks_h, experts_h, weights_hf, bias_h, error_h, encoder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, EvidenceError):
                raise
            raise EvidenceError(f"These are not the arrays of a gate for tensors ({error}).") from error


def encoder_digest(arrays: Mapping[str, Array]) -> str:
    """Digest of the encoder that a gate's arrays were trained with; "" where there was none."""
    return str(arrays[_DIGEST]) if _DIGEST in arrays else ""


def fit_tensor_gate(
    features_qf: Floats,
    tasks: Sequence[str],
    experts: Sequence[str],
    quality_q: Floats,
    *,
    penalty: float | None = None,
    encoder: TensorEncoder | None = None,
) -> TensorGate:
    """Train a head per task and expert that answered at least two of its queries.

    Args:
        features_qf: As `sketch_tensor` gives them, or the encoder.
        tasks: Task of each query.
        experts: Which expert answered it, alone.
        quality_q: How good that answer was, 0 to 1.
        penalty: On the heads' weights; chosen for each by its own error on unseen queries when None.
        encoder: What made the features; None for the sketch.

    Raises:
        EvidenceError: No expert answered two queries of a task, or as in `fit_head`.
    """
    pairs = np.array([*zip(tasks, experts, strict=True)], dtype=object).reshape(-1, 2)
    found = {}
    for pair in dict.fromkeys(map(tuple, pairs.tolist())):
        rows = np.flatnonzero((pairs == pair).all(axis=1))
        if len(rows) > 1:
            design = make_design(features_qf[rows], [pair[0]] * len(rows), counts=features_qf.shape[1])
            found[pair] = fit_head(design, quality_q[rows], penalty=penalty).head
    if not found:
        raise EvidenceError("No expert answered two queries of a task alone: there is nothing to learn from.")
    heads = [found[pair] for pair in found]
    return TensorGate(
        tasks_h=tuple(task for task, _ in found),
        experts_h=tuple(expert for _, expert in found),
        # All rows of a head are of the one task; the last is its own, or row 0 where there are few queries.
        weights_hf=np.array([head.weights_tf[-1] for head in heads]),
        bias_h=np.array([head.bias_t[-1] for head in heads]),
        calibration_error_h=np.array([head.calibration_error for head in heads]),
        encoder=encoder,
    )


def fit_text_gate(
    counts: Sequence[Counts],
    tasks: Sequence[str],
    quality_of: Mapping[str, Floats],
    *,
    penalty: float | None = None,
    seed: int = 0,
) -> TextGate:
    """Train a gate for text from hashed counts: what `fit_gate` makes of the texts themselves.

    Args:
        counts: Of each query.
        tasks: Likewise.
        quality_of: By expert, the quality of its answers; NaN where it did not answer alone.
        penalty: As in `fit_gate`.
        seed: Of the encoder's sample and the folds.

    Raises:
        EvidenceError: As in `fit_gate`.
        NativeMissing: The compiled part is not built.
    """
    filled = [one for one in counts if len(one.bucket_n)]
    encoder = fit_encoder_of(matrix_of(filled) if filled else None, seed=seed)
    design = make_design(features_of(encoder, counts), tasks, seed=seed)
    heads = tuple(fit_head(design, quality_q, penalty=penalty).head for quality_q in quality_of.values())
    return TextGate(encoder, design.tasks, tuple(quality_of), heads)
