"""Do the vectors of the experts that ship tell apart what a question is about, better than the words that are in it?

A library holds a few questions of each skill, said in known ways; questions of the test split, whose case, wording or
both no expert has seen, get the skill of their nearest neighbour by cosine (29 skills, seven suites of them). Beside
the vectors of `/v1/embeddings` stand the hashed n-grams that the gate reads (`optimizer/gate/recorded.py`), and of the
general expert what was not taken: the mean over all tokens, and the state after the last block. Experts were trained
to answer, none to tell questions apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.worker.sessions import session_of
from nodes.worker.text.middle import middle_of, with_output
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import Cache, LanguageModel
from nodes.worker.text.vectors import Reading
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.skills.skill import Question
from nodes.zoo.skills.suites import NAMES, SUITES, Split, judging_questions, training_questions
from optimizer.gate.encoder import BUCKETS
from optimizer.gate.recorded import count_text
from tests.bench.harness import Bar, Row, main
from tests.bench.skills_table import DEVICE

GENERAL = "skills-general"
LAST = "/norm/Mul_2_output_0"
QUESTIONS = 1400
PER_SKILL = (4, 16)
LIBRARIES = 5
# Training questions among which every skill has enough.
DRAWN = 4000
Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]

BARS = (Bar("general_over_hashed_16_low", 0.0, ">="),)


def run() -> list[Row]:
    """All figures. Cost: about half a minute of one core."""
    asked = judging_questions(Split.TEST, QUESTIONS)
    pools = [_by_skill(seed) for seed in range(LIBRARIES)]
    rows: list[Row] = []
    right: dict[tuple[str, int], NDArray[np.float64]] = {}
    for name, embed in _encoders().items():
        asked_qd = embed([question.prompt for question in asked])
        for count in PER_SKILL:
            told = [_told(asked, asked_qd, [q for pool in one.values() for q in pool[:count]], embed) for one in pools]
            right[name, count] = np.mean([skills for skills, _ in told], axis=0)
            sizes: dict[str, object] = {"questions": len(asked), "per_skill": count, "libraries": LIBRARIES}
            rows.append(Row(f"{name}_skill_{count}", float(right[name, count].mean()), "fraction right", sizes))
            suites = float(np.mean([suites for _, suites in told]))
            rows.append(Row(f"{name}_suite_{count}", suites, "fraction right", sizes))
    for count in PER_SKILL:
        differ_q = right["general", count] - right["hashed", count]
        half = 1.96 * float(differ_q.std(ddof=1)) / len(differ_q) ** 0.5
        rows.append(
            Row(f"general_over_hashed_{count}", 100 * float(differ_q.mean()), "points", {"half_width": 100 * half})
        )
        rows.append(Row(f"general_over_hashed_{count}_low", 100 * (float(differ_q.mean()) - half), "points, 95 %"))
    return [*rows, _joules([question.prompt for question in asked])]


def _by_skill(seed: int) -> dict[tuple[str, str], list[Question]]:
    pool: dict[tuple[str, str], list[Question]] = {
        (suite, skill.name): [] for suite, skills in SUITES.items() for skill in skills
    }
    for question in islice(training_questions(NAMES, 1000 + seed), DRAWN):
        pool[question.suite, question.skill].append(question)
    if min(map(len, pool.values())) < max(PER_SKILL):
        raise ValueError("too few questions were drawn")
    return pool


def _told(
    asked: Sequence[Question], asked_qd: Floats, library: Sequence[Question], embed: Embed
) -> tuple[list[bool], list[bool]]:
    """Whether each question's nearest neighbour is of its skill, and of its suite."""
    nearest = (asked_qd @ embed([question.prompt for question in library]).T).argmax(axis=1)
    pairs = [(library[i], question) for i, question in zip(nearest, asked, strict=True)]
    suites = [one.suite == other.suite for one, other in pairs]
    return [same and one.skill == other.skill for same, (one, other) in zip(suites, pairs, strict=True)], suites


def _encoders() -> Mapping[str, Embed]:
    catalog = load_text_catalog()
    models = {
        card.name: LanguageModel(catalog.model_path(card), card.sha256) for card in catalog.experts if card.learned
    }
    ours = {name.removeprefix("skills-"): _served(model) for name, model in models.items()}
    file = next(catalog.model_path(card) for card in catalog.experts if card.name == GENERAL)
    return {"hashed": _hashed, **ours, **_not_taken(models[GENERAL], file.read_bytes())}


def _served(model: LanguageModel) -> Embed:
    """As `/v1/embeddings` gives them."""

    def embed(texts: Sequence[str]) -> Floats:
        reading = Reading(Mixture([model], [1.0]), texts)
        while not reading.waits:
            rows = [row for _, row in reading.plan()]
            reading.advance(list(model.step(rows)))
        return reading.vectors_bd

    return embed


def _not_taken(model: LanguageModel, content: bytes) -> Mapping[str, Embed]:
    middle = middle_of(content)
    if middle is None:
        raise ValueError("the expert has no middle")
    session = session_of(with_output(with_output(content, middle), LAST))

    def states(text: str, tensor: str) -> Floats:
        tokens, past = np.array([model.tokenizer.prompt(text)]), np.ascontiguousarray(Cache(model).past)
        feed = {"tokens": tokens, "past_tokens": np.zeros(1, np.int64), "past": past}
        found: Floats = session.run([tensor], feed)[0][0]
        return found

    def means(texts: Sequence[str]) -> Floats:
        return _normalised([states(text, middle).mean(axis=0) for text in texts])

    def last_means(texts: Sequence[str]) -> Floats:
        return _normalised([states(text, LAST).mean(axis=0) for text in texts])

    def lasts(texts: Sequence[str]) -> Floats:
        return _normalised([states(text, LAST)[-1] for text in texts])

    return {"general_mean": means, "general_last_block_mean": last_means, "general_last_block": lasts}


def _hashed(texts: Sequence[str]) -> Floats:
    counts_qh = np.zeros((len(texts), BUCKETS), np.float32)
    for row_h, text in zip(counts_qh, texts, strict=True):
        counts = count_text(text)
        row_h[counts.bucket_n] = counts.weight_n
    return _normalised(list(counts_qh))


def _normalised(rows: Sequence[Floats]) -> Floats:
    whole = np.array(rows)
    lengths = np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
    return np.asarray(whole / lengths, np.float32)


def _joules(texts: Sequence[str]) -> Row:
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == GENERAL)
    model = LanguageModel(catalog.model_path(card), card.sha256)
    macs = [model.macs(0, len(model.tokenizer.prompt(text))) for text in texts]
    energy_j = float(np.mean([load_profile(DEVICE).energy_j(one) for one in macs]))
    return Row("general_energy", energy_j, "J per text, modelled", {"device": DEVICE})


if __name__ == "__main__":
    main(stem="embeddings", run=run, bars=BARS)
