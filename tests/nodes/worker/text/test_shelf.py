"""Kept prompts: the same bits with and without them, nothing across scopes, bounded bytes. Real experts that ship."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import BLOCK_TOKENS, Cache, LanguageModel, Row
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.writing import Order, Writing
from nodes.zoo.language.catalog import load_text_catalog

STORY = "What is 37 plus 45? Sort the words pear, apple, fig and grape; then say how many hours 5 days have. " * 5
FOLLOW_UP = STORY + "And what is 12 plus 19?"
PLENTY = 2**26
SAMPLED = Sampling(temperature=0.9, top_p=0.95)


@cache
def model(name: str = "skills-dates") -> LanguageModel:
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == name)
    return LanguageModel(catalog.model_path(card), card.sha256)


def order(question: str = STORY, **settings: object) -> Order:
    asked = Order(question, max_tokens=12, min_tokens=12, sampling=SAMPLED, seed=7, scope="ada", keep_bytes=PLENTY)
    return replace(asked, **settings)  # type: ignore[arg-type]


def written(batcher: Batcher, mixture: Mixture, asked: Order) -> tuple[list[int], int, int]:
    """Tokens of the answer, those of the prompt that were kept, and the multiply-accumulates."""
    text = batcher.join(1, mixture, asked)
    while len(batcher):
        list(batcher.step())
    assert isinstance(text.writing, Writing)
    lanes = text.writing.lanes
    return lanes.tokens[text.writing.prompt_tokens :], text.writing.cached_tokens, lanes.counts.macs


def alone(name: str = "skills-dates") -> Mixture:
    return Mixture([model(name)], [1.0])


@pytest.mark.parametrize("sampling", [SAMPLED, Sampling()])
def test_an_answer_has_the_same_tokens_with_kept_prompts_and_without(sampling: Sampling) -> None:
    for mixture in (alone(), Mixture([model(), model("skills-strings")], [0.5, 0.5])):
        batcher = Batcher()
        written(batcher, mixture, order(sampling=sampling))
        reused, cached, macs = written(batcher, mixture, order(FOLLOW_UP, sampling=sampling))
        fresh, none, all_macs = written(Batcher(), mixture, order(FOLLOW_UP, sampling=sampling))
        assert reused == fresh
        assert cached >= 4 * BLOCK_TOKENS
        assert none == 0
        assert macs < 0.6 * all_macs


def test_what_is_lent_has_the_bits_of_what_would_be_read() -> None:
    expert, shelf = model(), Shelf(PLENTY)
    prompt = expert.tokenizer.prompt(FOLLOW_UP)
    fresh, lent = Cache(expert), Cache(expert)
    scores_v = expert.step([expert.read_blocks(Row(fresh, prompt))])[0]
    first = expert.tokenizer.prompt(STORY)
    earlier = Cache(expert)
    expert.step([expert.read_blocks(Row(earlier, first))])
    shelf.keep("ada", first, expert, earlier)
    tokens = shelf.lend("ada", prompt, expert, lent)
    assert tokens == (len(first) - 1) // BLOCK_TOKENS * BLOCK_TOKENS > 0
    again_v = expert.step([expert.read_blocks(Row(lent, prompt[tokens:]))])[0]
    assert np.array_equal(scores_v, again_v)
    assert np.array_equal(fresh.past, lent.past)


def test_a_shelf_that_lends_the_wrong_keys_changes_the_scores() -> None:
    """The control of the two above: that the bits are equal hangs on what is lent."""
    expert, shelf = model(), Shelf(PLENTY)
    prompt, wrong, lent = expert.tokenizer.prompt(FOLLOW_UP), Cache(expert), Cache(expert)
    expert.read_blocks(Row(wrong, prompt[::-1]))
    shelf.keep("ada", prompt, expert, wrong)
    tokens = shelf.lend("ada", prompt, expert, lent)
    fresh = Cache(expert)
    scores_v = expert.step([expert.read_blocks(Row(fresh, prompt))])[0]
    assert not np.array_equal(scores_v, expert.step([expert.read_blocks(Row(lent, prompt[tokens:]))])[0])


@pytest.mark.parametrize(("scope", "shared"), [("ada", True), ("bob", False), ("", False)])
def test_nothing_is_shared_between_scopes_or_without_one(scope: str, shared: bool) -> None:
    batcher = Batcher()
    written(batcher, alone(), order())
    assert (written(batcher, alone(), order(scope=scope))[1] > 0) is shared


def test_nothing_is_shared_between_models() -> None:
    batcher = Batcher()
    written(batcher, alone(), order())
    assert written(batcher, alone("skills-strings"), order())[1] == 0


def test_a_text_that_was_cancelled_leaves_what_it_has_read() -> None:
    batcher = Batcher()
    batcher.join(1, alone(), order())
    next(batcher.step())
    batcher.leave(1)
    assert written(batcher, alone(), order())[1] > 0


def test_bytes_are_bounded_and_the_longest_unused_leave_first() -> None:
    batcher = Batcher()
    written(batcher, alone(), order())
    blocks = batcher.shelf.bytes
    for number in range(5):
        written(batcher, alone(), order(f"{number} {STORY}", keep_bytes=2 * blocks))
        assert batcher.shelf.bytes <= 2 * blocks
    assert written(batcher, alone(), order(f"4 {STORY}", keep_bytes=2 * blocks))[1] > 0
    assert written(batcher, alone(), order(keep_bytes=2 * blocks))[1] == 0


def test_of_a_prompt_its_end_leaves_first() -> None:
    expert, shelf = model(), Shelf(PLENTY)
    prompt, held = expert.tokenizer.prompt(STORY), Cache(expert)
    expert.read_blocks(Row(held, prompt))
    shelf.keep("ada", prompt, expert, held)
    kept = shelf.lend("ada", prompt, expert, Cache(expert))
    shelf.limit_bytes = shelf.bytes // 2
    shelf.keep("ada", prompt, expert, held)
    assert 0 < shelf.lend("ada", prompt, expert, Cache(expert)) <= kept // 2


def test_models_that_leave_take_their_prompts_along() -> None:
    batcher = Batcher()
    written(batcher, alone(), order())
    batcher.shelf.retain({model("skills-strings").digest})
    assert batcher.shelf.bytes == 0
    assert written(batcher, alone(), order())[1] == 0


def test_no_bytes_keep_nothing() -> None:
    batcher = Batcher()
    written(batcher, alone(), order(keep_bytes=0))
    assert written(batcher, alone(), order(keep_bytes=0))[1] == 0
