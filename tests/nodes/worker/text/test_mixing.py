"""Experts that write together: nobody misses a token, and the distribution is that of the average."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.fakes.language import FixedModel, lanes, write

ONE_V = np.array([0.0, 0.7, 0.2, 0.1, 0.0])
TWO_V = np.array([0.0, 0.1, 0.1, 0.3, 0.5])


def test_each_expert_reads_every_token_once_and_one_runs_per_token() -> None:
    models = [FixedModel(ONE_V), FixedModel(TWO_V), FixedModel(TWO_V)]
    text = lanes(models, [0.5, 0.3, 0.2], seed=1)
    written = write(text, 200)
    whole = [1, 2, *written]
    for model in models:
        assert model.read == whole[: len(model.read)], "in order, without gaps"
        assert len(model.read) > 150
    assert text.counts.calls == 200
    # All that was read, less the prompts and the newest token of every call but the first, which had none.
    read = sum(len(model.read) for model in models)
    assert text.counts.caught_up_tokens == read - 3 * 2 - 199
    assert text.counts.macs == read


def test_greedy_texts_take_the_most_probable_of_the_average_and_run_everyone() -> None:
    text = lanes([FixedModel(ONE_V), FixedModel(TWO_V)], [0.4, 0.6], seed=0, temperature=0.0)
    assert write(text, 3) == [1, 1, 1]
    assert (0.4 * ONE_V + 0.6 * TWO_V).argmax() == 1
    assert text.counts.calls == 6
    heavier = lanes([FixedModel(ONE_V), FixedModel(TWO_V)], [0.1, 0.9], seed=0, temperature=0.0)
    assert write(heavier, 1) == [4]


def test_one_model_writes_what_it_writes_without_a_mixture() -> None:
    alone = write(lanes([FixedModel(ONE_V)], [1.0], seed=5), 50)
    generator = np.random.Generator(np.random.PCG64(5))
    cumulated_v = np.cumsum(ONE_V)
    assert alone == [int(np.searchsorted(cumulated_v, generator.random(), side="right")) for _ in range(50)]


@pytest.mark.parametrize(("drawn", "accepted"), [([0.3, 0.7], True), ([0.36, 0.64], False)])
def test_drawn_tokens_follow_the_average(drawn: list[float], accepted: bool) -> None:
    tokens = write(lanes([FixedModel(ONE_V), FixedModel(TWO_V)], drawn, seed=11), 20_000)
    expected_v = 20_000 * (0.3 * ONE_V + 0.7 * TWO_V)
    counts_v = np.bincount(tokens, minlength=5)
    assert counts_v[0] == 0
    p = stats.chisquare(counts_v[1:], expected_v[1:]).pvalue
    assert bool(p > 0.01) is accepted
