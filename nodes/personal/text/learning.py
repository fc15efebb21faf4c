"""Trains what of a language model is one user's own, from questions and the answers that they want. Needs torch.

Only scales, shifts and what is added to the scores are trained. Generic questions are not replayed here: numbers so few
cannot be right about two formats of one answer; keeping everybody else's questions away is the gate's part.
Shapes: b rows, t tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from nodes.personal.network import Floats
from nodes.personal.text.decoder import DecoderFile
from nodes.worker.text.tokens import END, Tokenizer
from nodes.zoo.language.network import Decoder, Shape

Tensors = dict[str, torch.Tensor]

IGNORED = -100
MOST_ANSWER_TOKENS = 16
CHUNK = 64


@dataclass(frozen=True)
class Recipe:
    """How long and how hard.

    Attributes:
        learning_rate: Of scales and shifts.
        bias_rate: Of what is added to the scores, which are of another size.
    """

    learning_rate: float = 0.02
    bias_rate: float = 0.3
    steps: int = 120
    batch: int = 16

    @property
    def samples(self) -> int:
        """Forward and backward passes of one question."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Pair:
    """A question and the answer that is wanted."""

    question: str
    answer: str


def network_of(file: DecoderFile) -> Decoder:
    """The decoder in torch."""
    head_width = file.sizes["head_width"]
    hidden = len(file.weights["blocks.0.feed.gate.weight"])
    heads = file.width // head_width
    shape = Shape(file.vocabulary, file.width, file.layers, heads, file.sizes["kv_heads"], hidden)
    network = Decoder(shape)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in file.weights.items()})
    network.eval().requires_grad_(requires_grad=False)
    return network


def forward(network: Decoder, delta: Mapping[str, torch.Tensor], tokens_bt: torch.Tensor) -> torch.Tensor:
    """Scores (b, t, v) with a delta, as the graph of `decoder.with_delta` computes them."""
    angles = network.angles(torch.arange(tokens_bt.shape[1]).unsqueeze(0))
    x_btd = network.embedding(tokens_bt)
    for layer, block in enumerate(network.blocks):
        x_btd, _ = block(x_btd, angles, None, None)
        x_btd = x_btd * (1.0 + delta[f"scale.{layer}"]) + delta[f"shift.{layer}"]
    scores: torch.Tensor = network.logits(network.norm(x_btd)) + delta["bias"]
    return scores


def learn(
    file: DecoderFile, network: Decoder, pairs: Sequence[Pair], *, recipe: Recipe, seed: int
) -> dict[str, Floats]:
    """The delta for these answers. Cost: some seconds of CPU for the smallest decoder that ships."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.zeros(shape, requires_grad=True) for name, shape in file.shapes().items()}
    blocks = [value for name, value in values.items() if name != "bias"]
    groups = [{"params": blocks}, {"params": [values["bias"]], "lr": recipe.bias_rate}]
    optimizer = torch.optim.Adam(groups, lr=recipe.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    tokens_bt, wanted_bt = _rows(file.tokenizer, pairs)
    for _ in range(recipe.steps):
        picked = torch.randint(len(pairs), (recipe.batch,), generator=generator)
        scores = forward(network, values, tokens_bt[picked])
        loss = functional.cross_entropy(scores.flatten(0, 1), wanted_bt[picked].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().numpy() for name, value in values.items()}


def answers(
    file: DecoderFile, network: Decoder, arrays: Mapping[str, Floats] | None, questions: Sequence[str]
) -> list[str]:
    """What the expert writes, greedily; None asks the global one. Cost: one pass per token of the longest answer."""
    shapes = file.shapes().items()
    delta = {n: torch.zeros(shape) if arrays is None else torch.tensor(arrays[n]) for n, shape in shapes}
    told: list[str] = []
    for at in range(0, len(questions), CHUNK):
        told += _written(file.tokenizer, network, delta, questions[at : at + CHUNK])
    return told


def _written(tokenizer: Tokenizer, network: Decoder, delta: Tensors, questions: Sequence[str]) -> list[str]:
    rows = [tokenizer.prompt(question) for question in questions]
    starts = [len(row) for row in rows]
    for _ in range(MOST_ANSWER_TOKENS):
        going = [i for i, row in enumerate(rows) if row[-1] != END or len(row) == starts[i]]
        if not going:
            break
        with torch.no_grad():
            scores = forward(network, delta, _padded([rows[i] for i in going]))
        for place, i in enumerate(going):
            rows[i].append(int(scores[place, len(rows[i]) - 1].argmax()))
    return [tokenizer.decode(row[start:]) for row, start in zip(rows, starts, strict=True)]


def _rows(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (b, t), and which one each place is to say next; questions and padding say nothing."""
    prompts = [tokenizer.prompt(pair.question) for pair in pairs]
    whole = [[*prompt, *tokenizer.encode(pair.answer), END] for prompt, pair in zip(prompts, pairs, strict=True)]
    tokens_bt = _padded(whole)
    wanted_bt = torch.full_like(tokens_bt, IGNORED)
    for i, (prompt, row) in enumerate(zip(prompts, whole, strict=True)):
        wanted_bt[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
    return tokens_bt, wanted_bt


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[END] * (longest - len(row))] for row in rows])
