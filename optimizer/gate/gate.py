"""The gate for text: an encoder that all experts share, and one quality head for each.

Shape letters: q queries, t tasks, f features, e experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.design import Design, make_design
from optimizer.gate.encoder import Encoder, as_bytes, fit_encoder
from optimizer.gate.head import Head, fit_head
from optimizer.gate.sentences import SentenceEncoder
from optimizer.gate.topics import Topics
from optimizer.mapping import Mapper, in_turn
from optimizer.native.text_gate import Pulls, Scorer

Floats = NDArray[np.float64]
Array = NDArray[np.generic]

FORMAT = 1


@dataclass(frozen=True)
class TextGate:
    """Estimated quality of every expert for a text.

    Args:
        encoder: Text to features.
        tasks: Names of the tasks with rows of their own: row 1, 2, ... of every head.
        experts: Names, in the order of `heads`.
        heads: One per expert.
        topics: Where the task is not told, a text is judged as one of its topic: their names are tasks then.
    """

    encoder: Encoder
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    heads: tuple[Head, ...]
    topics: Topics | None = None

    def __post_init__(self) -> None:
        shape = (len(self.tasks) + 1, self.encoder.features)
        if len(self.experts) != len(self.heads) or len({*self.experts}) != len(self.experts) or not self.heads:
            raise EvidenceError("A gate needs experts of different names, one head each.")
        if any(head.weights_tf.shape != shape or head.bias_t.shape != shape[:1] for head in self.heads):
            raise EvidenceError("A head's tasks or features are not those of the gate.")
        if self.topics is not None and self.topics.weight_kf.shape[1] != self.encoder.features:
            raise EvidenceError("The topics' features are not those of the gate.")

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {task: row for row, task in enumerate(self.tasks, start=1)}

    @cached_property
    def _scorer(self) -> Scorer:
        weights_tfe = np.stack([head.weights_tf for head in self.heads], axis=2)
        bias_te = np.stack([head.bias_t for head in self.heads], axis=1)
        return Scorer(self.encoder.arrays, weights_tfe, bias_te, pulls=self._pulls)

    @cached_property
    def _pulls(self) -> Pulls | None:
        if self.topics is None:
            return None
        rows = [self._row_of.get(name, 0) for name in self.topics.names]
        return Pulls(self.topics.weight_kf, self.topics.bias_k, np.array(rows, dtype=np.int64))

    def quality(self, text: str, task: str = "") -> Floats:
        """Quality of each expert, (e,), within 0 and 1; an unknown task counts as not told.

        Raises:
            NativeMissing: The compiled part is not built.

        Cost: features included, 10 to 20 µs for 500 characters and 20 experts; twice that where the caches are cold.
            With a sentence encoder, what that takes comes on top.
        Source: tests/bench/results/routing_quality.jsonl, gate_decision.
        """
        if self.encoder.sentences:
            return np.asarray(self.quality_many([text], [task])[0])
        return self._scorer(as_bytes(text), self._row_of.get(task, 0))

    def quality_many(self, texts: Sequence[str], tasks: Sequence[str]) -> Floats:
        """Quality of each expert for many texts, (q, e)."""
        if self.encoder.sentences and texts:
            return self.judge(self.encoder.encode(texts), tasks)
        return np.array([self.quality(text, task) for text, task in zip(texts, tasks, strict=True)]).reshape(
            len(texts), len(self.experts)
        )

    def judge(self, features_qf: Floats, tasks: Sequence[str]) -> Floats:
        """Quality of each expert for prompts of which the encoder's features are known, (q, e)."""
        task_q = self.rows_of(features_qf, tasks)
        return np.column_stack([head.quality(features_qf, task_q) for head in self.heads])

    def rows_of(self, features_qf: Floats, tasks: Sequence[str]) -> NDArray[np.int64]:
        """Which row of a head judges each prompt, by its task or else its topic, (q,)."""
        row_of = self._row_of
        task_q = np.array([row_of.get(task, 0) for task in tasks], dtype=np.int64)
        if self.topics is not None:
            untold_q = task_q == 0
            task_q[untold_q] = [row_of.get(topic, 0) for topic in self.topics.of(features_qf[untold_q])]
        return task_q

    def take(self, experts: Sequence[str]) -> TextGate:
        """The gate of some of the experts; what it says about them stays what it was, to the last bit.

        Raises:
            KeyError: An expert that the gate does not know.
        """
        head_of = dict(zip(self.experts, self.heads, strict=True))
        return replace(self, experts=tuple(experts), heads=tuple(head_of[name] for name in experts))

    def joined(self, expert: str, head: Head) -> TextGate:
        """The gate with one more expert; the others' heads are the same objects."""
        return replace(self, experts=(*self.experts, expert), heads=(*self.heads, head))

    def learn(
        self, texts: Sequence[str], tasks: Sequence[str], quality_q: Floats, *, penalty: float | None = None
    ) -> Head:
        """The head of a new expert over this gate's encoder and tasks, from prompts of any origin.

        Raises:
            EvidenceError: As in `fit_head`.
        """
        known = [task if task in self._row_of else "" for task in tasks]
        design = make_design(self.encoder.encode(texts), known)
        return _spread(fit_head(design, quality_q, penalty=penalty).head, design.tasks, self.tasks)

    def to_arrays(self) -> dict[str, Array]:
        """Plain arrays (numbers and texts, no objects) that `from_arrays` takes."""
        return {
            "format": np.array(FORMAT),
            "tasks": np.array(self.tasks, dtype=np.str_),
            "experts": np.array(self.experts, dtype=np.str_),
            "weights_etf": np.stack([head.weights_tf for head in self.heads]),
            "bias_et": np.stack([head.bias_t for head in self.heads]),
            "calibration_error_e": np.array([head.calibration_error for head in self.heads]),
            **({} if self.topics is None else {"topic_kf": self.topics.weight_kf, "topic_k": self.topics.bias_k}),
            **self.encoder.to_arrays(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], sentences: SentenceEncoder | None = None) -> TextGate:
        """A gate from its arrays, and the sentence encoder where it was trained with one.

        Raises:
            EvidenceError: Arrays that are missing, of another format, or do not fit together or to the encoder.
        """
        try:
            if int(arrays["format"]) != FORMAT:
                raise EvidenceError(
                    f"This gate is of format {int(arrays['format'])}; known is {FORMAT}. Train it again."
                )
            weights_etf = np.asarray(arrays["weights_etf"], dtype=np.float64)
            parts = zip(weights_etf, arrays["bias_et"], arrays["calibration_error_e"], strict=True)
            heads = tuple(
                Head(weights, np.asarray(bias, dtype=np.float64), float(error)) for weights, bias, error in parts
            )
            names = tuple(map(str, arrays["tasks"].tolist())), tuple(map(str, arrays["experts"].tolist()))
            return cls(Encoder.from_arrays(arrays, sentences), *names, heads, _topics(arrays))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, EvidenceError):
                raise
            raise EvidenceError(f"These are not the arrays of a gate ({error}). Train it again.") from error


def fit_gate(
    texts: Sequence[str],
    tasks: Sequence[str],
    quality_of: Mapping[str, Floats],
    *,
    penalty: float | None = None,
    sentences: SentenceEncoder | None = None,
    mapper: Mapper = in_turn,
) -> TextGate:
    """Train a gate: the encoder on the texts, then every head by itself.

    Args:
        texts: Prompts; may be empty.
        tasks: Task of each.
        quality_of: By expert, the quality of its answer to each prompt, 0 to 1; NaN where there is none.
        penalty: On the heads' weights; chosen for each by its own error on unseen prompts when None.
        sentences: An encoder from outside, whose embeddings stand beside the hashed n-grams.
        mapper: Does the heads.

    Raises:
        EvidenceError: As in `make_design`, `fit_head` and `fit_sentences`.
        NativeMissing: The compiled part is not built.

    Cost: 10 s for 12,000 prompts and 20 experts on one core.
    """
    encoder = fit_encoder(texts, sentences=sentences)
    design = make_design(encoder.encode(texts), tasks)
    heads = mapper(partial(_head, design, penalty), [*quality_of.values()], "head")
    return TextGate(encoder, design.tasks, tuple(quality_of), tuple(heads))


def _head(design: Design, penalty: float | None, quality_q: Floats) -> Head:
    return fit_head(design, quality_q, penalty=penalty).head


def _topics(arrays: Mapping[str, Array]) -> Topics | None:
    if "topic_kf" not in arrays:
        return None
    weight_kf, bias_k = (np.ascontiguousarray(arrays[name], dtype=np.float64) for name in ("topic_kf", "topic_k"))
    return Topics(weight_kf, bias_k)


def _spread(head: Head, own: Sequence[str], tasks: Sequence[str]) -> Head:
    """The head's rows in the gate's order; tasks that it has not seen take its row 0."""
    row_of = {task: row for row, task in enumerate(own, start=1)}
    rows = [0, *(row_of.get(task, 0) for task in tasks)]
    return Head(head.weights_tf[rows], head.bias_t[rows], head.calibration_error)
