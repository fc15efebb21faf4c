"""Greedy answers of a torch network to many questions at once, for judging during training.

Shapes as in `network`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nodes.worker.text.tokens import END, Tokenizer
from nodes.zoo.language.network import Decoder
from nodes.zoo.skills.checking import is_right
from nodes.zoo.skills.skill import Question

MAX_ANSWER_TOKENS = 16


def greedy_answers(network: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """The network's answers. Cost: one pass over the prompts and one step per token of the longest answer."""
    rows = [tokenizer.prompt(prompt) for prompt in prompts]
    past_b = torch.zeros(len(rows), dtype=torch.int64)
    cache, tokens_bt = empty_cache(network, len(rows)), _padded(rows)
    new_b = torch.tensor([len(row) for row in rows])
    answers: list[list[int]] = [[] for _ in rows]
    for _ in range(MAX_ANSWER_TOKENS):
        with torch.no_grad():
            logits_btv, added = network(tokens_bt, past_b, cache)
        cache = merged(cache, added, past_b, new_b)
        past_b = past_b + new_b
        chosen_b = logits_btv[torch.arange(len(rows)), new_b - 1].argmax(-1)
        tokens_bt, new_b = chosen_b.unsqueeze(1), torch.ones_like(new_b)
        for answer, token in zip(answers, chosen_b.tolist(), strict=True):
            if not answer or answer[-1] != END:
                answer.append(token)
        if all(answer[-1] == END for answer in answers):
            break
    return [tokenizer.decode(answer) for answer in answers]


def right_by_suite(network: Decoder, tokenizer: Tokenizer, questions: Sequence[Question]) -> dict[str, tuple[int, int]]:
    """Right answers and questions of every suite."""
    answers = greedy_answers(network, tokenizer, [question.prompt for question in questions])
    counts: dict[str, tuple[int, int]] = {}
    for question, answer in zip(questions, answers, strict=True):
        right, total = counts.get(question.suite, (0, 0))
        counts[question.suite] = right + is_right(answer, question.answer), total + 1
    return counts


def empty_cache(network: Decoder, rows: int) -> Tensor:
    """Keys and values of no past."""
    shape = network.shape
    return torch.zeros(shape.layers, 2, rows, shape.kv_heads, 0, shape.head_width)


def merged(cache: Tensor, added: Tensor, past_b: Tensor, new_b: Tensor) -> Tensor:
    """The cache with the new tokens behind each row's past."""
    places = int((past_b + new_b).max())
    grown = torch.zeros(*cache.shape[:4], places, cache.shape[5])
    for row, (past, new) in enumerate(zip(past_b.tolist(), new_b.tolist(), strict=True)):
        grown[:, :, row, :, :past] = cache[:, :, row, :, :past]
        grown[:, :, row, :, past : past + new] = added[:, :, row, :, :new]
    return grown


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[END] * (longest - len(row))] for row in rows])
