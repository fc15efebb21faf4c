"""Experts that write one text together, token by token: what drawing one expert per token saves, and that it is exact.

Four experts of one vocabulary in one process on one thread. The rival averages the distributions of all four for every
token, one forward pass after the other, through the same code. Both write `TOKENS` tokens after the same questions,
ends ignored, in turn within one run. An expert's first turn reads the question: that is prefill, counted apart.

Exactness: a million tokens through the sampler's own code, from real distributions of the four experts at a place
where they disagree, against the averaged distribution; and the same test must notice one weight that is off by 2 %.

Across nodes (`tests.bench.fusion_nodes`): the same experts, each on a node of its own, through a real gateway. The
rival averages in parallel: every node computes every token and ships its distribution. Milliseconds are of whole texts,
the question read, over streams without a relay; bytes of other texts, with one. All nodes share this machine's
processors, so that "in parallel" is as far as they reach; beside the measured ratio stands the one of a processor for
each node, *modelled*: the rival's token then takes the slowest expert's step, measured here alone, and one trip there
and back, measured in our own run, whatever the size of what it ships.

By bytes (`tests.bench.fusion_bytes`): the same four experts across nodes, beside the average of their tokens, and four
of as many vocabularies.
"""

from __future__ import annotations

import asyncio
import os
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
from tests.bench.fusion_bytes import by_bytes
from tests.bench.fusion_nodes import DENSE, TOPS, TURNS, Text, fleet
from tests.bench.harness import Bar, main, spread
from tests.bench.harness import Row as Figure
from tests.fakes.language import FixedModel, lanes, write

BARS = (
    Bar("decode_calls_per_token", 1.15, "<="),
    Bar("wall_vs_averaging", 1 / 3, "<="),
    Bar("p_value_of_the_average", 0.01, ">="),
    Bar("p_value_with_a_weight_off_by_2_percent", 1e-3, "<="),
    Bar("across_nodes_wall_vs_parallel_averaging", 1.1, "<="),
    Bar("across_nodes_wall_vs_parallel_averaging_a_processor_each", 1.1, "<="),
    Bar("across_nodes_bytes_per_token", 64.0, "<="),
)
EXPERTS = 4
TOKENS = 256
REPEATS = 12
NODES_REPEATS = 6
COUNTED_REPEATS = 4
DRAWN = 1_000_000
TEXTS = 50
MIN_EXPECTED = 5.0
# In the names of figures.
WAYS = {TURNS: "", TOPS: "top_32_averaging_", DENSE: "dense_averaging_"}
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
    return [*_speed(mixture, catalog), *_across_nodes(mixture, catalog), *by_bytes(), *_exactness(mixture, catalog)]


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


# ---- across nodes


def _across_nodes(mixture: Mixture, catalog: TextCatalog) -> list[Figure]:
    step_ms = [_step_ms(model, catalog) for model in mixture.models]
    timed = asyncio.run(_texts(catalog, NODES_REPEATS, counted=False))
    counted = asyncio.run(_texts(catalog, COUNTED_REPEATS, counted=True))
    ours = timed[TURNS]
    sizes: dict[str, object] = {
        "nodes": EXPERTS,
        "tokens": TOKENS,
        "repeats": NODES_REPEATS,
        "processors": os.cpu_count(),
    }
    ratios = [one.ms / rival.ms for one, rival in zip(ours, timed[DENSE], strict=True)]
    low, middle, high = spread(ratios)
    # Of one turn, beside the steps in it; in turns only one node computes at a time.
    trip_ms = [(one.ms - TOKENS * float(np.mean(step_ms))) / one.runs for one in ours]
    modelled = [one.ms / (TOKENS * (max(step_ms) + trip)) for one, trip in zip(ours, trip_ms, strict=True)]
    figures = [
        Figure("across_nodes_wall_vs_parallel_averaging", middle, "ratio", sizes | {"quartiles": [low, high]}),
        Figure(
            "across_nodes_wall_vs_parallel_averaging_a_processor_each",
            float(np.median(modelled)),
            "ratio",
            sizes | {"modelled": True, "step_ms": step_ms, "trip_ms": float(np.median(trip_ms))},
        ),
        Figure("across_nodes_turns_per_token", float(np.mean([one.runs / one.tokens for one in ours])), "turns", sizes),
    ]
    for kind, name in WAYS.items():
        per_token = [one.ms / one.tokens for one in timed[kind]]
        figures.append(Figure(f"across_nodes_{name}ms_per_token", float(np.median(per_token)), "ms", sizes))
    bytes_sizes = sizes | {"repeats": COUNTED_REPEATS, "tls": False}
    for kind, name in WAYS.items():
        # Messages with the heads of gRPC and of HTTP/2's data frames; sockets also with its flow control and pings.
        for what in ("message_bytes", "socket_bytes"):
            per_token = [getattr(one, what) / one.tokens for one in counted[kind]]
            metric = f"across_nodes_{name}{what.removeprefix('message_')}_per_token"
            figures.append(Figure(metric, float(np.mean(per_token)), "bytes", bytes_sizes))
    return figures


async def _texts(catalog: TextCatalog, repeats: int, *, counted: bool) -> dict[str, list[Text]]:
    """Texts by the way in which they were written, in turn, after the same questions."""
    experts = [card.name for card in catalog.experts if card.learned is not None]
    found: dict[str, list[Text]] = {kind: [] for kind in WAYS}
    async with fleet(experts, counted=counted) as nodes:
        for repeat in range(repeats + 1):
            for kind, texts in found.items():
                one = await nodes.write(kind, catalog.test[repeat].prompt, tokens=TOKENS, seed=repeat)
                if one.tokens != TOKENS:
                    raise RuntimeError(f"{kind}: {one.tokens} tokens; {TOKENS} were asked for")
                if repeat:  # The first warms up.
                    texts.append(one)
    return found


def _step_ms(model: LanguageModel, catalog: TextCatalog) -> float:
    """Milliseconds of one token of one expert alone in this process."""
    prompt = model.tokenizer.prompt(catalog.test[0].prompt)
    cost = _timed(Lanes(Mixture([model], [1.0]), prompt, sampling=Sampling(0.0), seed=0))
    return cost.decode_ms / cost.decode_calls


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
