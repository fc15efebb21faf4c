"""Lists of texts as tensors: their bytes one after the other, and where each ends. Shape letter: q texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.skills.skill import Question
from nodes.zoo.skills.suites import NAMES


def packed(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes (uint8) and cumulative ends (q)."""
    pieces = [text.encode() for text in texts]
    ends_q = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    return np.frombuffer(b"".join(pieces), np.uint8), ends_q


def unpacked(data: NDArray[np.uint8], ends_q: NDArray[np.int64]) -> list[str]:
    """The texts again."""
    whole = data.tobytes()
    return [whole[start:end].decode() for start, end in pairwise([0, *ends_q.tolist()])]


def question_tensors(questions: Sequence[Question]) -> dict[str, NDArray[Any]]:
    """Prompts, right answers, and the place of each suite in `NAMES`, which is for statistics only."""
    prompts, prompt_ends = packed([question.prompt for question in questions])
    answers, answer_ends = packed([question.answer for question in questions])
    suites = np.array([NAMES.index(question.suite) for question in questions], np.int64)
    return {
        "prompts": prompts,
        "prompt_ends": prompt_ends,
        "answers": answers,
        "answer_ends": answer_ends,
        "suites": suites,
    }


def questions_from(tensors: Mapping[str, NDArray[Any]]) -> list[Question]:
    """The questions again; which skill they are of is not kept."""
    prompts = unpacked(tensors["prompts"], tensors["prompt_ends"])
    answers = unpacked(tensors["answers"], tensors["answer_ends"])
    rows = zip(tensors["suites"].tolist(), prompts, answers, strict=True)
    return [Question(NAMES[suite], "", prompt, answer) for suite, prompt, answer in rows]
