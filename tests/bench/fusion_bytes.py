"""Four experts on four nodes write one text byte by byte: what it takes beside averaging tokens, and with as many
vocabularies as experts.

The first panel is the experts that ship, of one vocabulary: the same panel writes by tokens and by bytes, in turn,
through the same gateway, ends ignored, `STEPS` steps each. The second has the same networks with their words, with ids
backwards, with half of the words and with none; such texts make no sense, and cost what they cost. Calls of models and
tokens read are counted in this process, on the same texts. There too every fifth test question is answered greedily by
the first panel in both ways, at the weights of one text on several nodes: how many answers are equal, how many right.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nodes.worker.text.library import Library
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import LanguageModel
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.writing import Order
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.judging import MAX_TOKENS, answer_all
from nodes.zoo.skills.checking import is_right
from orchestrator.execution.bytewise import Draws, likeliest
from tests.bench.fusion_nodes import BYTES, BYTES_DRAWN, TOPS, Text, fleet
from tests.bench.harness import Row
from tests.fakes.respelled import respelled, words_of
from tests.fakes.spellers import Written, write

EXPERTS = ("skills-general", "skills-dates", "skills-strings", "skills-arithmetic")
STEPS = 256
REPEATS = 4
COUNTED_REPEATS = 2
# Of the test questions, so that each suite has its share.
EVERY = 5
NAMES = {TOPS: "top_32_averaging", BYTES: "greedy", BYTES_DRAWN: "drawn"}
Kinds = Sequence[str]


def by_bytes() -> list[Row]:
    """All figures. Cost: a minute or two."""
    questions = [question.prompt for question in load_text_catalog().test[: REPEATS + 1]]
    with tempfile.TemporaryDirectory() as made:
        own = _own_vocabularies(Path(made))
        folders = {expert: Path(made) / expert for expert in own}
        same, several = (TOPS, BYTES, BYTES_DRAWN), (BYTES, BYTES_DRAWN)
        return [
            *_across_nodes("one_vocabulary", same, questions, {}),
            *_across_nodes("four_vocabularies", several, questions, folders),
            *_calls("one_vocabulary", shipped(), questions),
            *_calls("four_vocabularies", [own[expert] for expert in EXPERTS], questions),
            *answers(),
        ]


def _own_vocabularies(folder: Path) -> dict[str, LanguageModel]:
    """Each expert with words of its own: all, all backwards, every other one, none."""
    words = words_of(EXPERTS[0])
    chosen: list[Sequence[str] | None] = [words, None, words[::2], ()]
    return {expert: respelled(expert, own, folder / expert) for expert, own in zip(EXPERTS, chosen, strict=True)}


def shipped() -> list[LanguageModel]:
    """Those that come along, in the order of `EXPERTS`."""
    catalog, library = load_text_catalog(), Library()
    cards = {card.name: card for card in catalog.experts}
    for name in EXPERTS:
        library.load(name, str(catalog.model_path(cards[name])), cards[name].sha256)
    return [library.arm(name).models[0] for name in EXPERTS]


# ---- across nodes


def _across_nodes(panel: str, kinds: Kinds, questions: Sequence[str], folders: Mapping[str, Path]) -> list[Row]:
    timed = asyncio.run(_texts(kinds, questions, folders, counted=False))
    counted = asyncio.run(_texts(kinds, questions[: COUNTED_REPEATS + 1], folders, counted=True))
    sizes: dict[str, object] = {"nodes": len(EXPERTS), "steps": STEPS, "processors": os.cpu_count()}
    rows = []
    for kind in kinds:
        name, several = f"bytes_{panel}_{NAMES[kind]}", sizes | {"repeats": len(timed[kind])}
        rows += [
            Row(f"{name}_ms_per_byte", _median([one.ms / one.text_bytes for one in timed[kind]]), "ms", several),
            Row(f"{name}_ms_per_step", _median([one.ms / one.tokens for one in timed[kind]]), "ms", several),
            Row(f"{name}_bytes_per_step", _ratio(timed[kind]), "bytes", several),
            Row(
                f"{name}_message_bytes_per_byte",
                sum(one.message_bytes for one in counted[kind]) / sum(one.text_bytes for one in counted[kind]),
                "bytes",
                sizes | {"repeats": len(counted[kind]), "tls": False},
            ),
        ]
    return rows


async def _texts(
    kinds: Kinds, questions: Sequence[str], folders: Mapping[str, Path], *, counted: bool
) -> dict[str, list[Text]]:
    """Texts by the way in which they were written, in turn, after the same questions; the first only warms up."""
    found: dict[str, list[Text]] = {kind: [] for kind in kinds}
    async with fleet(EXPERTS, counted=counted, folders=folders) as nodes:
        for place, question in enumerate(questions):
            for kind, texts in found.items():
                one = await nodes.write(kind, question, tokens=STEPS, seed=place)
                if one.tokens != STEPS:
                    raise RuntimeError(f"{kind}: {one.tokens} steps; {STEPS} were asked for")
                if place:
                    texts.append(one)
    return found


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _ratio(texts: Sequence[Text]) -> float:
    return sum(one.text_bytes for one in texts) / sum(one.tokens for one in texts)


# ---- calls


def _calls(panel: str, models: Sequence[LanguageModel], questions: Sequence[str]) -> list[Row]:
    rows = []
    for kind, temperature in ((BYTES, 0.0), (BYTES_DRAWN, 1.0)):
        texts = [_written(models, question, place, temperature) for place, question in enumerate(questions)]
        written = sum(len(one.data) for one in texts)
        sizes: dict[str, object] = {"experts": len(models), "steps": STEPS, "repeats": len(texts)}
        name = f"bytes_{panel}_{NAMES[kind]}"
        calls, read = (sum(sum(one) for one in each) for each in _each(texts))
        steps = len(models) * sum(one.steps for one in texts)
        rows += [
            Row(f"{name}_calls_per_byte", calls / written / len(models), "calls", sizes),
            Row(f"{name}_calls_per_step", calls / steps, "calls", sizes),
            Row(f"{name}_read_tokens_per_call", read / calls, "tokens", sizes),
        ]
    return rows


def _each(texts: Sequence[Written]) -> tuple[list[list[int]], list[list[int]]]:
    return [one.calls for one in texts], [one.read_tokens for one in texts]


def _written(models: Sequence[LanguageModel], question: str, seed: int, temperature: float) -> Written:
    order = Order(question, min_tokens=STEPS, sampling=Sampling(temperature), seed=seed)
    return write(models, order, choose=Draws(seed).choose if temperature else likeliest, steps=STEPS)


# ---- answers


def answers() -> list[Row]:
    """How many greedy answers are equal in both ways, and how many right. Cost: some ten seconds."""
    catalog, models = load_text_catalog(), shipped()
    cards = {card.name: card for card in catalog.experts}
    weights = [cards[name].quality.right_fraction for name in EXPERTS]
    asked = catalog.test[::EVERY]
    by_tokens = answer_all(Mixture(models, weights), asked)
    given = [write(models, Order(one.prompt), weights=weights, steps=MAX_TOKENS).text for one in asked]
    equal = [one == other for one, other in zip(given, by_tokens.given, strict=True)]
    right = [is_right(one, question.answer) for one, question in zip(given, asked, strict=True)]
    sizes: dict[str, object] = {"questions": len(asked), "weights": weights}
    return [
        Row("bytes_one_vocabulary_answers_equal_to_tokens", float(np.mean(equal)), "fraction", sizes),
        Row("bytes_one_vocabulary_right", float(np.mean(right)), "fraction", sizes),
        Row("bytes_one_vocabulary_right_by_tokens", float(by_tokens.correct_q.mean()), "fraction", sizes),
    ]
