"""One expert's part of a shared text: in turns the text is the one that a mixture writes in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.sharing import Told, Turn, Voice, turn_from
from nodes.worker.text.tokens import END
from nodes.worker.text.writing import Order, PromptRefused
from orchestrator.execution.schedule import Schedule
from tests.fakes.language import FixedModel, lanes, write


def letters(seed: int) -> np.ndarray:
    """A distribution over small letters."""
    probability_v = np.zeros(259)
    probability_v[97:123] = np.random.default_rng(seed).dirichlet(np.full(26, 0.4))
    return probability_v


def voices(models: Sequence[FixedModel], order: Order, *, quiet: bool = False) -> list[Batcher]:
    """Each expert in a process of its own."""
    found = []
    for model in models:
        batcher = Batcher()
        batcher.join_shared(1, Mixture([model], [1.0]), order, quiet=quiet)  # type: ignore[list-item]
        found.append(batcher)
    return found


def in_turns(batchers: Sequence[Batcher], weights: Sequence[float], *, seed: int, tokens: int) -> tuple[list[int], str]:
    """Hand out single turns as drawn; ids and text."""
    schedule = Schedule(weights, seed)
    known, ids, text = [0] * len(batchers), [], ""  # type: tuple[list[int], list[int], str]
    for place in range(tokens):
        expert = schedule.expert(place)
        assert batchers[expert].turn(1, Turn(tuple(ids[known[expert] :]), 1)) is None
        for running in batchers[expert].step():
            assert running.piece is not None
            ids += running.piece.token_ids
            text += running.piece.text
            if running.writing.finish:
                return ids, text
        known[expert] = len(ids)
    return ids, text


@pytest.mark.parametrize("seed", [0, 7])
def test_in_turns_the_text_is_that_of_a_mixture_in_one_process(seed: int) -> None:
    weights = [0.5, 0.3, 0.2]
    together = write(lanes([FixedModel(letters(n)) for n in range(3)], weights, seed=seed), 120)
    models = [FixedModel(letters(n)) for n in range(3)]
    order = Order("x", max_tokens=120, sampling=Sampling(1.0), seed=seed)
    ids, text = in_turns(voices(models, order), weights, seed=seed, tokens=120)
    assert ids == together
    assert text == bytes(ids).decode()
    for model in models:
        assert model.read[3:] == ids[: len(model.read) - 3], "everything once, in order"
    other, _ = in_turns(
        voices(models, Order("x", max_tokens=120, sampling=Sampling(1.0), seed=seed + 1)),
        weights,
        seed=seed,
        tokens=120,
    )
    assert other != together, "a node with another seed is noticed"


@pytest.mark.parametrize(("drawn", "accepted"), [([0.3, 0.7], True), ([0.38, 0.62], False)])
def test_drawn_tokens_follow_the_average(drawn: list[float], accepted: bool) -> None:
    one_v, two_v = letters(1), letters(2)
    order = Order("x", max_tokens=5000, sampling=Sampling(1.0), seed=11)
    ids, _ = in_turns(voices([FixedModel(one_v), FixedModel(two_v)], order), drawn, seed=11, tokens=5000)
    expected_v = len(ids) * (0.3 * one_v + 0.7 * two_v)
    letters_v, counts_v = slice(ord("a"), ord("z") + 1), np.bincount(ids, minlength=len(expected_v))
    often_v = expected_v[letters_v] >= 5.0
    observed = np.append(counts_v[letters_v][often_v], counts_v[letters_v][~often_v].sum())
    expected = np.append(expected_v[letters_v][often_v], expected_v[letters_v][~often_v].sum())
    assert bool(stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 0.01) is accepted


def test_a_quiet_turn_is_one_piece_and_the_text_ends_where_it_should() -> None:
    order = Order("x", max_tokens=7, sampling=Sampling(1.0), seed=4)
    (alone,) = voices([FixedModel(letters(1))], order, quiet=True)
    alone.turn(1, Turn((), 5))
    pieces = []
    while alone.busy:
        pieces += [running.piece for running in alone.step()]
    assert [len(piece.token_ids) for piece in pieces if piece] == [5]
    alone.turn(1, Turn((), 5))
    last = [running for _ in range(2) for running in alone.step()]
    assert [(running.writing.finish, len(running.piece.token_ids)) for running in last if running.piece] == [
        ("length", 2)
    ]


def test_stop_strings_and_ends_hold_across_experts() -> None:
    """A stop string whose halves come from two experts: nothing of it is sent."""
    one, two = np.zeros(259), np.zeros(259)
    one[ord("a")] = two[ord("b")] = 1.0
    order = Order("x", max_tokens=9, sampling=Sampling(1.0), stop=("ab",))
    first, second = voices([FixedModel(one), FixedModel(two)], order)
    first.turn(1, Turn((), 1))
    (said,) = first.step()
    assert said.piece is not None
    assert (said.piece.text, said.piece.token_ids) == ("", (ord("a"),))
    second.turn(1, Turn((ord("a"),), 1))
    (ended,) = second.step()
    assert ended.writing.finish == "stop"
    assert ended.piece is not None
    assert ended.piece.text == ""
    ending = np.zeros(259)
    ending[END] = 1.0
    (alone,) = voices([FixedModel(ending)], Order("x", sampling=Sampling(1.0)))
    alone.turn(1, Turn((), 3))
    assert [running.writing.finish for running in alone.step()] == ["stop"]


def told_by(batcher: Batcher) -> Told:
    """What the next step tells."""
    (running,) = batcher.step()
    assert isinstance(running.writing, Voice)
    assert isinstance(running.writing.told, Told)
    return running.writing.told


def test_probabilities_are_told_and_whoever_averages_chooses() -> None:
    probability_v = letters(2)
    (alone,) = voices([FixedModel(probability_v)], Order("x", sampling=Sampling(0.0)))
    alone.turn(1, Turn(tops=3))
    told = told_by(alone)
    assert list(told.top_ids) == list(np.argsort(-probability_v)[:3])
    assert told.probabilities == pytest.approx(np.sort(probability_v)[::-1][:3], rel=1e-3)
    # More of the same needs no second run.
    again = alone.turn(1, Turn(dense=True))
    assert again is not None
    assert isinstance(again.writing, Voice)
    assert isinstance(again.writing.told, Told)
    assert again.writing.told.probabilities.shape == (259,)
    assert again.writing.counts.calls == 1
    # The text of what was chosen elsewhere, from the one who is asked for it.
    heard = alone.turn(1, Turn((ord("q"),), dense=True, tell_text=True))
    assert heard is not None
    assert heard.piece is not None
    assert heard.piece.text == "q"
    assert told_by(alone).probabilities.shape == (259,)


def test_the_last_turn_ends_the_text_and_tells_what_was_held_back() -> None:
    (alone,) = voices([FixedModel(letters(1))], Order("x", sampling=Sampling(1.0), stop=("q!",)))
    ended = alone.turn(1, Turn((ord("a"), ord("q")), last=True, tell_text=True))
    assert ended is not None
    assert ended.piece is not None
    assert (ended.piece.text, ended.writing.finish, len(alone)) == ("aq", "length", 0)
    assert alone.turn(1, Turn((), 1)) is None


def test_a_mixture_takes_no_turns_and_a_turn_must_be_readable() -> None:
    models = [FixedModel(letters(1)), FixedModel(letters(2))]
    with pytest.raises(PromptRefused, match="members"):
        Batcher().join_shared(1, Mixture(models, [1.0, 1.0]), Order("x"), quiet=False)  # type: ignore[arg-type]
    with pytest.raises(PromptRefused, match="cannot be read"):
        turn_from({"token_ids": [1], "count": "x"})
