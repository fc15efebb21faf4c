"""What nodes send of text experts, as evidence: prompts and answers travel as bytes with where each of them ends.

A reference set has `prompts` (uint8) and `prompt_ends` (q,); an expert's evidence has `correct` (q,), `margin` (q,),
`given` (uint8) and `given_ends` (q,), and may have `completion_tokens` (q,).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optimizer.errors import EvidenceError
from optimizer.evidence.texts import TextEvidence
from orchestrator.fleet.evidence import EvidenceStore
from orchestrator.types import Array, Task

# Experts, each with the digest of what it sent.
Sent = tuple[tuple[str, str], ...]


class Answers(NamedTuple):
    """One expert's answers to the prompts; lengths where it told them."""

    correct_q: Array
    margin_q: Array
    given: tuple[str, ...]
    tokens_q: Array | None


def gather_text(task: Task, sent: Sent, store: EvidenceStore) -> TextEvidence | None:
    """The prompts with the answers of every expert whose answers have come and fit to them; None where there are none.
    Arguments as of `gather_tensors`."""
    reference = store.get(task.reference_digest)
    prompts = None if reference is None else texts_of(reference, "prompts", "prompt_ends")
    if not prompts:
        return None
    answers: dict[str, Answers] = {}
    for expert, digest in sent:
        tensors = store.get(digest)
        found = None if tensors is None else _answers(tensors, len(prompts))
        if found is not None:
            answers[expert] = found
    if not answers:
        return None
    experts = tuple(sorted(answers))
    try:
        return TextEvidence(
            experts,
            prompts,
            correct_qe=np.column_stack([answers[expert].correct_q for expert in experts]),
            margin_qe=np.column_stack([answers[expert].margin_q for expert in experts]),
            given_eq=tuple(answers[expert].given for expert in experts),
            tokens_qe=_lengths([answers[expert].tokens_q for expert in experts]),
        )
    except EvidenceError:
        return None


def texts_of(tensors: Mapping[str, Array], name: str, ends: str) -> tuple[str, ...] | None:
    """Texts from their bytes and where each ends; None where these do not fit together."""
    data, end_q = tensors.get(name), tensors.get(ends)
    if data is None or end_q is None or data.ndim != 1 or data.dtype != np.uint8:
        return None
    if end_q.ndim != 1 or end_q.dtype.kind not in "iu" or not len(end_q):
        return None
    bounds = [0, *end_q.tolist()]
    if bounds[-1] != len(data) or any(one > other for one, other in itertools.pairwise(bounds)):
        return None
    whole = data.tobytes()
    return tuple(whole[a:b].decode(errors="replace") for a, b in itertools.pairwise(bounds))


def _lengths(tokens: Sequence[Array | None]) -> Array | None:
    """Tokens of all answers; None where some expert did not tell."""
    told = [tokens_q for tokens_q in tokens if tokens_q is not None]
    return np.column_stack(told) if len(told) == len(tokens) else None


def _answers(sent: Mapping[str, Array], queries: int) -> Answers | None:
    correct_q, margin_q = sent.get("correct"), sent.get("margin")
    given = texts_of(sent, "given", "given_ends")
    if correct_q is None or margin_q is None or given is None:
        return None
    if correct_q.shape != (queries,) or margin_q.shape != (queries,) or len(given) != queries:
        return None
    columns = [np.asarray(column, dtype=np.float64) for column in (correct_q, margin_q)]
    if any(not np.isfinite(column).all() or column.min() < 0.0 or column.max() > 1.0 for column in columns):
        return None
    return Answers(columns[0], columns[1], given, _tokens(sent, queries))


def _tokens(sent: Mapping[str, Array], queries: int) -> Array | None:
    """How long the answers were; None where the expert did not tell, or told what cannot be."""
    tokens_q = sent.get("completion_tokens")
    if tokens_q is None or tokens_q.shape != (queries,) or tokens_q.dtype.kind not in "iuf":
        return None
    lengths_q = tokens_q.astype(np.float64)
    return lengths_q if np.isfinite(lengths_q).all() and (lengths_q >= 0.0).all() else None
