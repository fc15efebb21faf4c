"""Training questions as padded token batches; the questions of a step hang on seed and step alone.

Shapes: b questions, t tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from nodes.worker.text.tokens import END, Tokenizer
from nodes.zoo.language.settings import Recipe
from nodes.zoo.skills.skill import OPENINGS, PLAIN_OPENINGS, Question
from nodes.zoo.skills.suites import training_questions

# Questions of so many steps are drawn together and sorted by length, so that little is padding.
STEPS_PER_POOL = 4
NO_TARGET = -100


@dataclass(frozen=True)
class Batch:
    """Tokens (b, t) and what follows each (b, t); `NO_TARGET` inside the question and in the padding."""

    tokens_bt: Tensor
    targets_bt: Tensor
    tokens: int


def batches(recipe: Recipe, tokenizer: Tokenizer, *, first_step: int) -> Iterator[Batch]:
    """The batches from `first_step` to the last."""
    for pool in range(first_step // STEPS_PER_POOL, -(-recipe.steps // STEPS_PER_POOL)):
        for place, batch in enumerate(_pool(recipe, tokenizer, pool)):
            if first_step <= pool * STEPS_PER_POOL + place < recipe.steps:
                yield batch


def _pool(recipe: Recipe, tokenizer: Tokenizer, pool: int) -> list[Batch]:
    openings = PLAIN_OPENINGS if pool * STEPS_PER_POOL < recipe.plain_until else OPENINGS
    drawn = training_questions(recipe.suites, seed=recipe.seed * 1_000_000 + pool, openings=openings)
    rows = [_row(tokenizer, question) for question in islice(drawn, STEPS_PER_POOL * recipe.batch_questions)]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    size = recipe.batch_questions
    found = [_padded(rows[start : start + size]) for start in range(0, len(rows), size)]
    # Rising lengths, step after step, would be a rhythm of their own.
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(pool)).tolist()
    return [found[i] for i in order]


def _row(tokenizer: Tokenizer, question: Question) -> tuple[list[int], list[int]]:
    return tokenizer.prompt(question.prompt), [*tokenizer.encode(question.answer), END]


def _padded(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    tokens_bt = torch.full((len(rows), longest), END)
    targets_bt = torch.full((len(rows), longest), NO_TARGET)
    for row, (prompt, answer) in enumerate(rows):
        whole = [*prompt, *answer]
        tokens_bt[row, : len(whole) - 1] = torch.tensor(whole[:-1])
        targets_bt[row, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)
    return Batch(tokens_bt, targets_bt, sum(len(prompt) + len(answer) for prompt, answer in rows))
