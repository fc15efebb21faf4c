"""What a kept prompt saves: time to the first token and arithmetic of a follow-up, with what was kept and without.

One expert on one thread through the code that serves. A first text is read and kept; a follow-up that says all of it
and one question more is asked in turn in the scope that has it and in one that has nothing. Both must write the same
tokens with the same seed, greedy and sampled, and the scores behind the prompt must have the same bits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.writing import Order, Writing
from nodes.zoo.language.catalog import load_text_catalog
from tests.bench.harness import Bar, main, spread
from tests.bench.harness import Row as Figure

BARS = (
    Bar("equal_answers_fraction", 1.0, ">="),
    Bar("equal_bits_fraction", 1.0, ">="),
    Bar("first_token_vs_unkept_400", 0.5, "<="),
    Bar("macs_vs_unkept_400", 0.5, "<="),
)
EXPERT = "skills-general"
PROMPTS = (100, 200, 400)
REPEATS, EQUALS = 15, 40
QUESTIONS = ("What is 12 plus 19?", "How many hours do 5 days have?", "Sort pear, apple, fig.", "Say hello backwards.")


@dataclass
class Cost:
    """Of one follow-up."""

    first_ms: float
    macs: int
    tokens: list[int]
    cached_tokens: int


def _model() -> LanguageModel:
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == EXPERT)
    return LanguageModel(catalog.model_path(card), card.sha256)


def _story(model: LanguageModel, tokens: int, seed: int) -> str:
    draw = random.Random(seed)
    text = ""
    while len(model.tokenizer.encode(text)) < tokens:
        text += f"{draw.choice(QUESTIONS)} {draw.randrange(1000)}. "
    return text


def _write(batcher: Batcher, mixture: Mixture, order: Order) -> Cost:
    started_s = perf_counter()
    writing = batcher.join(1, mixture, order).writing
    assert isinstance(writing, Writing)
    list(batcher.step())
    first_ms = (perf_counter() - started_s) * 1e3
    macs = writing.lanes.counts.macs
    while len(batcher):
        list(batcher.step())
    tokens = writing.lanes.tokens[writing.prompt_tokens :]
    return Cost(first_ms, macs, tokens, writing.cached_tokens)


def _order(question: str, scope: str, seed: int = 1) -> Order:
    sampling = Sampling(0.9, 0.95) if seed % 2 else Sampling()
    return Order(question, max_tokens=8, min_tokens=8, sampling=sampling, seed=seed, scope=scope, keep_bytes=2**28)


def _times(mixture: Mixture, tokens: int) -> list[Figure]:
    model, batcher = mixture.models[0], Batcher()
    kept: list[Cost] = []
    unkept: list[Cost] = []
    for number in range(REPEATS + 1):
        story = _story(model, tokens, number)
        _write(batcher, mixture, _order(story, "kept"))
        pair = [(kept, "kept"), (unkept, f"new-{number}")]
        # In turn, and who goes first changes.
        for costs, scope in pair if number % 2 else pair[::-1]:
            costs.append(_write(batcher, mixture, _order(story + QUESTIONS[number % 4], scope)))
    # The first pair warms up.
    ratios = [ours.first_ms / theirs.first_ms for ours, theirs in zip(kept[1:], unkept[1:], strict=True)]
    low, ratio, high = spread(ratios)
    sizes: dict[str, object] = {"expert": EXPERT, "prompt_tokens": tokens, "repeats": REPEATS}
    macs = sum(cost.macs for cost in kept) / sum(cost.macs for cost in unkept)
    return [
        Figure(f"first_token_ms_kept_{tokens}", spread([cost.first_ms for cost in kept[1:]])[1], "ms", sizes),
        Figure(f"first_token_ms_unkept_{tokens}", spread([cost.first_ms for cost in unkept[1:]])[1], "ms", sizes),
        Figure(f"first_token_vs_unkept_{tokens}", ratio, "ratio", {**sizes, "quartiles": [low, high]}),
        Figure(f"macs_vs_unkept_{tokens}", macs, "ratio", sizes),
        Figure(f"cached_tokens_{tokens}", float(np.median([cost.cached_tokens for cost in kept])), "tokens", sizes),
    ]


def _same_answers(mixture: Mixture) -> float:
    model, batcher, equal = mixture.models[0], Batcher(), 0
    for seed in range(EQUALS):
        story = _story(model, 70 + 9 * seed, seed)
        _write(batcher, mixture, _order(story, "kept"))
        asked = _order(story + QUESTIONS[seed % 4], "kept", seed)
        ours, theirs = _write(batcher, mixture, asked), _write(Batcher(), mixture, replace(asked, scope=""))
        if not ours.cached_tokens or theirs.cached_tokens:
            raise SystemExit("the two were not what they are compared as")
        equal += ours.tokens == theirs.tokens
    return equal / EQUALS


def _same_bits(model: LanguageModel) -> float:
    equal = 0
    for seed in range(EQUALS):
        shelf, story = Shelf(2**28), _story(model, 70 + 9 * seed, seed)
        first, prompt = model.tokenizer.prompt(story), model.tokenizer.prompt(story + QUESTIONS[seed % 4])
        read, fresh, lent = Cache(model), Cache(model), Cache(model)
        model.read_blocks(Row(read, first))
        shelf.keep("s", first, model, read)
        tokens = shelf.lend("s", prompt, model, lent)
        ours_v, theirs_v = (
            model.step([model.read_blocks(row)])[0] for row in (Row(lent, prompt[tokens:]), Row(fresh, prompt))
        )
        equal += bool(tokens) and np.array_equal(ours_v, theirs_v) and np.array_equal(fresh.past, lent.past)
    return equal / EQUALS


def run() -> list[Figure]:
    """All figures. Cost: half a minute of one core."""
    model = _model()
    mixture = Mixture([model], [1.0])
    sizes: dict[str, object] = {"expert": EXPERT, "texts": EQUALS}
    rows = [
        Figure("equal_answers_fraction", _same_answers(mixture), "fraction", sizes),
        Figure("equal_bits_fraction", _same_bits(model), "fraction", sizes),
    ]
    return rows + [row for tokens in PROMPTS for row in _times(mixture, tokens)]


if __name__ == "__main__":
    main(stem="kept_prompts", run=run, bars=BARS)
