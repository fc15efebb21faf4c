"""The experts that ship, written together by bytes: beside the average of their tokens, and with ids that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.library import Library
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Sampling, probabilities
from nodes.worker.text.writing import Order
from nodes.zoo.language.catalog import load_text_catalog
from orchestrator.execution.bytewise import Draws, likeliest
from tests.fakes.respelled import respelled
from tests.fakes.spellers import write

NAMES = ("skills-general", "skills-dates", "skills-strings", "skills-arithmetic")
WEIGHTS = (0.62, 0.25, 0.21, 0.15)
QUESTIONS = 60
# Of single tokens "1" is the most probable; "Thursday" and "Tuesday" are more so together.
APART = "What is the day that comes 12 days after Monday?"


@pytest.fixture(scope="module")
def models() -> list[LanguageModel]:
    catalog, library = load_text_catalog(), Library()
    cards = {card.name: card for card in catalog.experts}
    for name in NAMES:
        library.load(name, str(catalog.model_path(cards[name])), cards[name].sha256)
    return [library.arm(name).models[0] for name in NAMES]


def by_tokens(models: list[LanguageModel], question: str) -> str:
    """The most probable token of the average, again and again."""
    batcher, text = Batcher(), ""
    running = batcher.join(1, Mixture(models, WEIGHTS), Order(question, max_tokens=60))
    while not running.writing.finish:
        text += "".join(one.piece.text for one in batcher.step() if one.piece)
    return text


def test_in_one_vocabulary_bytes_write_nearly_always_what_tokens_do(models: list[LanguageModel]) -> None:
    questions = [question.prompt for question in load_text_catalog().test[:QUESTIONS]]
    found = [write(models, Order(question), weights=WEIGHTS) for question in questions]
    equal = [one.text == by_tokens(models, question) for one, question in zip(found, questions, strict=True)]
    assert np.mean(equal) >= 0.9
    # At most one call of each expert for a step, and about as many steps as tokens.
    assert all(max(one.calls) <= one.steps <= len(one.data) + 1 for one in found)


def test_where_they_differ_many_tokens_begin_with_the_byte_that_is_taken(models: list[LanguageModel]) -> None:
    prompt = models[0].tokenizer.prompt(APART)
    averaged_v = np.average(
        [probabilities(model.step([Row(Cache(model), prompt)])[0]) for model in models], axis=0, weights=WEIGHTS
    )
    tokens = [models[0].tokenizer.token_bytes(token) for token in range(len(averaged_v))]
    best = tokens[int(averaged_v.argmax())]
    first = sum(float(p) for p, token in zip(averaged_v, tokens, strict=True) if token[:1] == b"T")
    assert best == b"1"
    assert first > sum(float(p) for p, token in zip(averaged_v, tokens, strict=True) if token[:1] == b"1")
    assert by_tokens(models, APART).startswith("1")
    assert write(models, Order(APART), weights=WEIGHTS).text.startswith("T")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_other_ids_of_the_same_words_change_nothing(
    models: list[LanguageModel], tmp_path: Path, temperature: float
) -> None:
    pair, backwards = models[:2], respelled(NAMES[1], None, tmp_path / "backwards")
    assert backwards.tokenizer.digest != pair[1].tokenizer.digest
    for place, question in enumerate(load_text_catalog().test[:12]):
        order = Order(question.prompt, sampling=Sampling(temperature))
        draws = [Draws(place).choose if temperature else likeliest for _ in range(2)]
        one, other = (write(two, order, choose=c) for two, c in zip((pair, [pair[0], backwards]), draws, strict=True))
        assert one.data == other.data
