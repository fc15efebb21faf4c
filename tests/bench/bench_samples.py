"""Does asking the largest shipped expert several times and taking what most samples say beat asking it once?

`fusion: {"mode": "vote", "samples": 5}` against one greedy answer of the same expert, on the test split of the skill
suites: right answers with the paired 95 % interval, and joules (modelled: multiply-accumulates of
`skills_table.DEVICE`). Samples are drawn one after the other, and those that could change nothing any more are not
drawn. In the gateway they run side by side, and are cancelled a little later than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.worker.text.batcher import Batcher
from nodes.worker.text.library import Library
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.writing import Order
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.skills.checking import is_right
from nodes.zoo.skills.skill import Question
from optimizer.routes.texts import normalised
from orchestrator.gateway.samples import TEMPERATURE as SAMPLE_TEMPERATURE
from orchestrator.gateway.samples import settled
from tests.bench.harness import Row, main
from tests.bench.skills_table import DEVICE

EXPERT = "skills-general"
SAMPLES = 5
MAX_TOKENS = 24
TWO_STEP = "two-step"
Floats = NDArray[np.float64]


def run() -> list[Row]:
    """All figures. Cost: about a minute of one core."""
    catalog, library = load_text_catalog(), Library()
    card = next(card for card in catalog.experts if card.name == EXPERT)
    library.load(card.name, str(catalog.model_path(card)), card.sha256)
    arm, questions = library.arm(EXPERT), catalog.test
    greedy = [_written(arm, Order(question.prompt, max_tokens=MAX_TOKENS)) for question in questions]
    voted = [_voted(arm, question, number) for number, question in enumerate(questions)]
    rows = _rows("greedy", questions, greedy) + _rows("samples", questions, voted)
    for name, part in ("all", slice(None)), (TWO_STEP, [question.suite == TWO_STEP for question in questions]):
        differ_q = (_right(questions, voted) - _right(questions, greedy))[part]
        half = 1.96 * float(differ_q.std(ddof=1)) / len(differ_q) ** 0.5
        low, high = 100 * (float(differ_q.mean()) - half), 100 * (float(differ_q.mean()) + half)
        if low <= 0.0:
            print(f"self-consistency does not pay on {name}: {low:+.1f} to {high:+.1f} points")
        sizes: dict[str, object] = {"questions": len(differ_q), "low": low, "high": high}
        rows.append(Row(f"samples_minus_greedy_{name}_points", 100 * float(differ_q.mean()), "points", sizes))
    ratio = sum(macs for _, macs in voted) / sum(macs for _, macs in greedy)
    return [*rows, Row("samples_energy_ratio", ratio, "ratio, modelled", {"samples": SAMPLES})]


def _written(arm: Mixture, order: Order) -> tuple[str, int]:
    """A text, and the multiply-accumulates that it took."""
    batcher, text = Batcher(), ""
    running = batcher.join(0, arm, order)
    while not running.writing.finish:
        for told in batcher.step():
            text += "" if told.piece is None else told.piece.text
    return text, running.writing.counts.macs


def _voted(arm: Mixture, question: Question, number: int) -> tuple[str, int]:
    """The answer of most samples; of as many the one that came first."""
    order = Order(question.prompt, max_tokens=MAX_TOKENS, sampling=Sampling(SAMPLE_TEMPERATURE))
    heard: list[str] = []
    spent_macs = 0
    while len(heard) < SAMPLES and not settled(heard, SAMPLES - len(heard)):
        text, macs = _written(arm, replace(order, seed=SAMPLES * number + len(heard)))
        heard.append(normalised(text))
        spent_macs += macs
    return Counter(heard).most_common(1)[0][0], spent_macs


def _right(questions: Sequence[Question], told: Sequence[tuple[str, int]]) -> Floats:
    return np.array([is_right(text, q.answer) for q, (text, _) in zip(questions, told, strict=True)], dtype=np.float64)


def _rows(name: str, questions: Sequence[Question], told: Sequence[tuple[str, int]]) -> list[Row]:
    energy_j = float(np.mean([load_profile(DEVICE).energy_j(macs) for _, macs in told]))
    sizes: dict[str, object] = {"expert": EXPERT, "questions": len(questions), "samples": SAMPLES}
    sizes["temperature"] = SAMPLE_TEMPERATURE if name == "samples" else 0.0
    return [
        Row(f"{name}_right", float(_right(questions, told).mean()), "fraction", sizes),
        Row(f"{name}_energy", energy_j, "J per question, modelled", {"device": DEVICE}),
    ]


if __name__ == "__main__":
    main(stem="samples", run=run, bars=())
