"""Lets a shipped expert answer questions, greedily and through the very code that serves, and scores the answers.

Needs onnxruntime, not torch. Shape letter: q questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.writing import Order
from nodes.zoo.language.cards import Score
from nodes.zoo.language.texts import packed, unpacked
from nodes.zoo.skills.checking import is_right, wilson_interval
from nodes.zoo.skills.skill import Question
from nodes.zoo.skills.suites import NAMES

AT_ONCE = 16
MAX_TOKENS = 24


@dataclass(frozen=True, eq=False)
class Answers:
    """An expert's answers to questions, and what they took."""

    given: tuple[str, ...]
    correct_q: NDArray[np.float32]
    margin_q: NDArray[np.float32]
    prompt_tokens_q: NDArray[np.int32]
    completion_tokens_q: NDArray[np.int32]
    macs_q: NDArray[np.int64]

    def evidence(self) -> dict[str, NDArray[Any]]:
        """As it goes over the wire."""
        given, given_ends = packed(self.given)
        return {
            "correct": self.correct_q,
            "completion_tokens": self.completion_tokens_q,
            "margin": self.margin_q,
            "given": given,
            "given_ends": given_ends,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, as a file keeps it."""
        given, given_ends = packed(self.given)
        figures = {name: value for name, value in vars(self).items() if name != "given"}
        return {**figures, "given": given, "given_ends": given_ends}


def answers_from(arrays: Mapping[str, NDArray[Any]]) -> Answers:
    """What `Answers.arrays` gave."""
    figures = {name: value for name, value in arrays.items() if not name.startswith("given")}
    return Answers(tuple(unpacked(arrays["given"], arrays["given_ends"])), **figures)


@dataclass
class _Answer:
    text: str = ""
    margin: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    macs: int = 0


def answer_all(mixture: Mixture, questions: Sequence[Question]) -> Answers:
    """All answers, in the order of the questions. Cost: some milliseconds per question and million parameters."""
    batcher, answers, asked = Batcher(), [_Answer() for _ in questions], 0
    while asked < len(questions) or len(batcher):
        while asked < len(questions) and len(batcher) < AT_ONCE:
            batcher.join(asked, mixture, Order(questions[asked].prompt, max_tokens=MAX_TOKENS))
            asked += 1
        for text in batcher.step():
            answer, writing = answers[text.key], text.writing
            answer.text += text.piece.text if text.piece else ""
            if writing.finish:
                answer.margin, answer.macs = writing.margin_fraction or 0.0, writing.counts.macs
                answer.prompt_tokens, answer.completion_tokens = writing.prompt_tokens, writing.completion_tokens
    return _tabled(questions, answers)


def _tabled(questions: Sequence[Question], answers: Sequence[_Answer]) -> Answers:
    right = [is_right(answer.text, question.answer) for question, answer in zip(questions, answers, strict=True)]
    return Answers(
        given=tuple(answer.text for answer in answers),
        correct_q=np.array(right, np.float32),
        margin_q=np.array([answer.margin for answer in answers], np.float32),
        prompt_tokens_q=np.array([answer.prompt_tokens for answer in answers], np.int32),
        completion_tokens_q=np.array([answer.completion_tokens for answer in answers], np.int32),
        macs_q=np.array([answer.macs for answer in answers], np.int64),
    )


def score(correct_q: NDArray[np.float32]) -> Score:
    """Share of right answers with its interval."""
    right, total = int(correct_q.sum()), len(correct_q)
    low, high = wilson_interval(right, total)
    return Score(round(right / max(1, total), 6), round(low, 6), round(high, 6), total)


def scores_by_suite(questions: Sequence[Question], correct_q: NDArray[np.float32]) -> Mapping[str, Score]:
    """The score of every suite."""
    suite_q = np.array([question.suite for question in questions])
    return {suite: score(correct_q[suite_q == suite]) for suite in NAMES if (suite_q == suite).any()}
