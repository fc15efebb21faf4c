"""What generations teach about a text arm: tokens' costs, lengths of answers, company, change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.fleet import text_arms
from orchestrator.fleet.arms import ArmBoard
from orchestrator.prefixes import UNTOLD_FRACTION, Conversation
from orchestrator.routing.figures import text_figures
from orchestrator.text_profile import TextProfile
from orchestrator.types import BudgetRequest, Done, Energy, GenerationParameters, Message, Provenance, TextQuery
from tests.orchestrator.builders import a_board, a_task, an_arm

ANNOUNCED = TextProfile(5.0, 0.1, 1.0, 0.001, 0.0001, 0.001, completion_tokens=20.0, completion_p95_tokens=40.0)
PROMPT_BYTES = 200


def a_text_board() -> ArmBoard:
    return a_board(an_arm("speaker", task="chat", energy_j=0.03, text=ANNOUNCED))


def done(prompt_tokens: int, completion_tokens: int, energy_j: float, *, finish: str = "stop") -> Done:
    energy = Energy(energy_j, Provenance.MEASURED, "rapl")
    return Done(1, {}, "", finish, prompt_tokens, completion_tokens, energy, 0.0, 0.0)


def generate(board: ArmBoard, count: int, *, decode_ms: float, decode_j: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        prompt, completion = int(rng.integers(20, 300)), int(rng.integers(2, 60))
        ms = (6.0 + 0.1 * prompt + decode_ms * completion) * rng.lognormal(0.0, 0.05)
        joules = (0.001 + 0.0001 * prompt + decode_j * completion) * rng.lognormal(0.0, 0.05)
        board.generated(0, done(prompt, completion, joules), service_ms=ms)


def a_query() -> TextQuery:
    return TextQuery(
        request_id="r",
        task=a_task("chat", text=True),
        expert=None,
        messages=(Message("user", "x" * PROMPT_BYTES),),
        parameters=GenerationParameters(max_tokens=64),
        budget=BudgetRequest(),
        deadline_s=10.0,
    )


def test_the_cost_of_a_token_is_learned_not_only_a_factor() -> None:
    board = a_text_board()
    generate(board, 400, decode_ms=3.0, decode_j=0.004)
    learned = board.states[0].text.profile(ANNOUNCED)
    assert learned.decode_ms_per_token == pytest.approx(3.0, rel=0.1)
    assert learned.prefill_ms_per_token == pytest.approx(0.1, rel=0.25)
    assert learned.decode_j_per_token == pytest.approx(0.004, rel=0.1)
    told = board.states[0].text.interval(ANNOUNCED, 100.0, 50.0)
    assert told is not None
    assert told.ms.low < 6.0 + 10.0 + 150.0 < told.ms.high
    assert (told.ms.high - told.ms.low) / told.ms.mean < 0.3


def test_prices_and_plans_follow_what_was_learned() -> None:
    board = a_text_board()
    before = text_figures(board, a_query())
    planned_j = float(board.energy_j_n[0])
    generate(board, 400, decode_ms=3.0, decode_j=0.004)
    after = text_figures(board, a_query())
    assert after.cost_n[0].service_ms > 1.8 * before.cost_n[0].service_ms
    assert after.cost_n[0].energy_j > 1.8 * before.cost_n[0].energy_j
    assert after.cost_n[0].service_bound_ms >= after.cost_n[0].service_ms
    # What plans are made with has moved as well, so that drift is noticed.
    assert board.energy_j_n[0] > 1.8 * planned_j


def test_lengths_of_answers_are_learned_from_those_that_ended_by_themselves() -> None:
    board = a_text_board()
    for _ in range(30):
        board.generated(0, done(50, 4, 0.01), service_ms=15.0)
        board.generated(0, done(50, 64, 0.1, finish="length"), service_ms=80.0)
    learned = board.states[0].text.profile(ANNOUNCED)
    assert (learned.completion_tokens, learned.completion_p95_tokens) == (4.0, 4.0)


def test_vectors_say_nothing_of_how_long_answers_are() -> None:
    board = a_text_board()
    for _ in range(60):
        board.generated(0, done(50, 0, 0.006), service_ms=11.0)
    assert board.states[0].text.profile(ANNOUNCED).completion_tokens == ANNOUNCED.completion_tokens


@pytest.mark.parametrize("scope", ["", "ada"])
def test_what_is_shared_with_nobody_says_nothing_of_what_is_kept(scope: str) -> None:
    prefixes = (track := a_text_board().states[0].text).prefixes
    talk = Conversation(scope, (Message("user", "x" * PROMPT_BYTES),))
    track.heard(talk, replace(done(50, 0, 0.006), cached_tokens=0))
    assert (prefixes.fraction > UNTOLD_FRACTION) is bool(scope)
    assert (prefixes.known_bytes(talk.chain()) > 0) is bool(scope)
    assert track.tokens_per_byte != text_arms.PRIOR_TOKENS_PER_BYTE, "how it counts tokens it shows all the same"


def test_another_profile_begins_anew() -> None:
    board = a_text_board()
    generate(board, 200, decode_ms=3.0, decode_j=0.004)
    other = TextProfile(1.0, 0.01, 0.1, 0.0, 0.0, 0.0001)
    assert board.states[0].text.profile(other) == other


def test_company_slows_generations_down_and_is_priced() -> None:
    board = a_text_board()
    rng = np.random.default_rng(3)
    for _ in range(200):
        prompt, completion = int(rng.integers(20, 300)), int(rng.integers(2, 60))
        alone_ms = 6.0 + 0.1 * prompt + completion
        joules = 0.001 + 0.0001 * prompt + 0.001 * completion
        board.generated(0, done(prompt, completion, joules), service_ms=alone_ms)
        held = [board.dispatched(0) for _ in range(4)]
        board.generated(0, done(prompt, completion, joules), service_ms=2.0 * alone_ms)
        for held_ms in held:
            board.released(0, held_ms)
    assert board.states[0].text.factor(4) == pytest.approx(2.0, rel=0.1)
    assert board.states[0].text.factor(1) == 1.0
    alone = text_figures(board, a_query()).cost_n[0].service_ms
    for _ in range(4):
        board.dispatched(0)
    assert text_figures(board, a_query()).cost_n[0].service_ms == pytest.approx(2.0 * alone, rel=0.15)


@pytest.mark.parametrize("allowed", [True, False])
def test_one_pause_does_not_make_long_texts_look_endless(monkeypatch: pytest.MonkeyPatch, *, allowed: bool) -> None:
    """Nor the wait behind them, which would refuse everybody until they are done; the control allows for no pause."""
    if not allowed:
        monkeypatch.setattr(text_arms, "PAUSE_MS", 0.0)
    board = a_text_board()
    board.generated(0, done(5, 1, 0.003), service_ms=400.0)
    figures = text_figures(board, a_query())
    assert bool(figures.cost_n[0].service_ms < 2_000.0) is allowed
    assert bool(figures.cost_n[0].service_bound_ms < 3_000.0) is allowed


@pytest.mark.parametrize("slower", [1.0, 3.0, 10.0])
def test_a_node_that_is_slower_is_foreseen_as_such_at_every_length(slower: float) -> None:
    board = a_text_board()
    rng = np.random.default_rng(5)
    for _ in range(30):
        prompt, completion = int(rng.integers(20, 300)), int(rng.integers(5, 60))
        ms = slower * (6.0 + 0.1 * prompt + 1.0 * completion)
        board.generated(0, done(prompt, completion, 0.03), service_ms=ms)
    learned = board.states[0].text.profile(ANNOUNCED)
    figures = text_figures(board, a_query())
    expected_ms = slower * (6.0 + 0.1 * figures.cost_n[0].prompt_tokens + learned.completion_tokens)
    assert figures.cost_n[0].service_ms == pytest.approx(expected_ms, rel=0.35)
    assert figures.cost_n[0].service_bound_ms >= figures.cost_n[0].service_ms
