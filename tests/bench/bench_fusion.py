"""Experts that write one text together, token by token: what drawing one expert per token saves, and that it is exact.

Four experts of one vocabulary in one process on one thread. The rival averages the distributions of all four for every
token, one forward pass after the other, through the same code. Both write `TOKENS` tokens after the same questions,
ends ignored, in turn within one run. An expert's first turn reads the question: that is prefill, counted apart.

Exactness: a million tokens through the sampler's own code, from real distributions of the four experts at a place
where they disagree, against the averaged distribution; and the same test must notice one weight that is off by 2 %.
Across nodes, where only token ids travel: not measured here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nodes.worker.text.library import Library
from nodes.worker.text.mixing import Lanes, Mixture
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Sampling, probabilities
from nodes.zoo.language.catalog import TextCatalog, load_text_catalog
from tests.bench.harness import Bar, main, spread
from tests.bench.harness import Row as Figure
from tests.fakes.language import FixedModel, lanes, write

BARS = (
    Bar("decode_calls_per_token", 1.15, "<="),
    Bar("wall_vs_averaging", 1 / 3, "<="),
    Bar("p_value_of_the_average", 0.01, ">="),
    Bar("p_value_with_a_weight_off_by_2_percent", 1e-3, "<="),
)
EXPERTS = 4
TOKENS = 256
REPEATS = 12
DRAWN = 1_000_000
TEXTS = 50
MIN_EXPECTED = 5.0
Floats = NDArray[np.float64]


@dataclass
class Cost:
    """What one text took, its prefill apart."""

    decode_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_calls: int = 0
    caught_up: int = 0
    tokens: int = 0


def run() -> list[Figure]:
    """All figures. Cost: some minutes of one core."""
    catalog = load_text_catalog()
    mixture = _mixture(catalog)
    return [*_speed(mixture, catalog), *_exactness(mixture, catalog)]


def _mixture(catalog: TextCatalog) -> Mixture:
    library = Library()
    models: list[LanguageModel] = []
    for card in catalog.experts:
        if card.learned is not None:
            library.load(card.name, str(catalog.model_path(card)), card.sha256)
            models += library.arm(card.name).models
    if len(models) != EXPERTS:
        raise RuntimeError(f"{len(models)} experts ship; {EXPERTS} are needed")
    return Mixture(models, [1.0] * EXPERTS)


# ---- speed


def _speed(mixture: Mixture, catalog: TextCatalog) -> list[Figure]:
    ratios, drawn, averaged = [], [], []
    for repeat in range(REPEATS + 1):
        prompt = mixture.models[0].tokenizer.prompt(catalog.test[repeat].prompt)
        one = _timed(Lanes(mixture, prompt, sampling=Sampling(1.0), seed=repeat))
        all_of_them = _timed(Lanes(mixture, prompt, sampling=Sampling(0.0), seed=repeat))
        if repeat:  # The first warms up.
            ratios.append(one.decode_ms / all_of_them.decode_ms)
            drawn.append(one)
            averaged.append(all_of_them)
    low, middle, high = spread(ratios)
    sizes = {"experts": EXPERTS, "tokens": TOKENS, "repeats": REPEATS, "quartiles": [round(low, 4), round(high, 4)]}
    return [
        Figure("decode_calls_per_token", _mean(drawn, "decode_calls"), "calls", sizes),
        Figure("caught_up_tokens_per_token", _mean(drawn, "caught_up"), "tokens", sizes),
        Figure("wall_vs_averaging", middle, "ratio", sizes),
        Figure("decode_ms_per_token", _mean(drawn, "decode_ms"), "ms", sizes),
        Figure("averaging_decode_ms_per_token", _mean(averaged, "decode_ms"), "ms", sizes),
        Figure("prefill_ms", float(np.mean([cost.prefill_ms for cost in drawn])), "ms", sizes),
        Figure("averaging_prefill_ms", float(np.mean([cost.prefill_ms for cost in averaged])), "ms", sizes),
    ]


def _timed(text: Lanes) -> Cost:
    cost = Cost(tokens=TOKENS)
    for _ in range(TOKENS):
        started_s = time.perf_counter()
        planned = text.plan()
        first_turn = any(row.cache.tokens == 0 for _, row in planned)
        text.choose([model.step([row])[0] for model, row in planned])
        took_ms = (time.perf_counter() - started_s) * 1e3
        if first_turn:
            cost.prefill_ms += took_ms
        else:
            cost.decode_ms += took_ms
            cost.decode_calls += len(planned)
    cost.caught_up = text.counts.caught_up_tokens
    return cost


def _mean(costs: Sequence[Cost], name: str) -> float:
    return float(np.mean([getattr(cost, name) / cost.tokens for cost in costs]))


# ---- exactness


def _exactness(mixture: Mixture, catalog: TextCatalog) -> list[Figure]:
    prompt, place = _where_they_disagree(mixture, catalog)
    probability_ev = np.stack([_distribution(mixture, e, prompt) for e in range(EXPERTS)])
    weight_e = np.array([0.4, 0.3, 0.2, 0.1])
    averaged_v = weight_e @ probability_ev
    off_e = weight_e * np.array([1.02, 1.0, 1.0, 1.0])
    right, cells = _p_value(_drawn(probability_ev, weight_e), averaged_v)
    wrong, _ = _p_value(_drawn(probability_ev, off_e / off_e.sum()), averaged_v)
    sizes = {"tokens": DRAWN, "cells": cells, "question": place, "weights": weight_e.tolist()}
    return [
        Figure("p_value_of_the_average", right, "probability", sizes),
        Figure("p_value_with_a_weight_off_by_2_percent", wrong, "probability", sizes),
    ]


def _where_they_disagree(mixture: Mixture, catalog: TextCatalog) -> tuple[list[int], int]:
    """Of the first test questions the one whose first token is least certain under the average."""

    def entropy(place: int) -> float:
        prompt = mixture.models[0].tokenizer.prompt(catalog.test[place].prompt)
        averaged_v = np.mean([_distribution(mixture, e, prompt) for e in range(EXPERTS)], axis=0)
        return float(stats.entropy(averaged_v))

    place = max(range(28), key=entropy)
    return mixture.models[0].tokenizer.prompt(catalog.test[place].prompt), place


def _distribution(mixture: Mixture, expert: int, prompt: list[int]) -> Floats:
    model = mixture.models[expert]
    return probabilities(model.step([Row(Cache(model), prompt)])[0])


def _drawn(probability_ev: Floats, weight_e: Floats) -> NDArray[np.int64]:
    """How often each token came, through plan and choice of the sampler itself."""
    counts_v = np.zeros(probability_ev.shape[1], np.int64)
    for text in range(TEXTS):
        models = [FixedModel(probability_v) for probability_v in probability_ev]
        tokens = write(lanes(models, weight_e.tolist(), seed=text), DRAWN // TEXTS)
        counts_v += np.bincount(tokens, minlength=len(counts_v))
    return counts_v


def _p_value(counts_v: NDArray[np.int64], expected_v: Floats) -> tuple[float, int]:
    """Pearson's chi-square; cells that expect fewer than five are one."""
    expected_v = expected_v * counts_v.sum() / expected_v.sum()
    rare_v = expected_v < MIN_EXPECTED
    observed, expected = counts_v[~rare_v].tolist(), expected_v[~rare_v].tolist()
    if rare_v.any():
        observed.append(int(counts_v[rare_v].sum()))
        expected.append(float(expected_v[rare_v].sum()))
    if expected[-1] < MIN_EXPECTED:
        observed[-2:], expected[-2:] = [sum(observed[-2:])], [sum(expected[-2:])]
    return float(stats.chisquare(observed, expected).pvalue), len(observed)


if __name__ == "__main__":
    main(stem="fusion", run=run, bars=BARS)
