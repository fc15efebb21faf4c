"""What arms have read: found by its beginning, told apart by scope, priced by what nodes really kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.fleet.arms import ArmBoard
from orchestrator.prefixes import (
    BLOCK_BYTES,
    KEPT_BLOCKS,
    MAX_BLOCKS,
    UNTOLD_FRACTION,
    Conversation,
    Prefixes,
    scope_of,
)
from orchestrator.routing.figures import Reading, text_figures
from orchestrator.text_profile import SINGLE_TURN, TextProfile
from orchestrator.types import BudgetRequest, Done, Energy, GenerationParameters, Message, Provenance, TextQuery
from tests.orchestrator.builders import a_board, a_task, an_arm

# No milliseconds and no joules but those of the prompt.
PROFILE = TextProfile(0.0, 1.0, 0.0, 0.0, 0.001, 0.0, completion_tokens=5.0, completion_p95_tokens=5.0)
STORY = "Once upon a time a node kept what it had read. " * 40
ADA, BOB = scope_of("acme", "ada"), scope_of("acme", "bob")


def conversation(*texts: str, scope: str = ADA) -> Conversation:
    roles = ("user", "assistant") * len(texts)
    return Conversation(scope, tuple(Message(role, text) for role, text in zip(roles, texts, strict=False)))


def asked(*texts: str, scope: str = ADA) -> TextQuery:
    return TextQuery(
        request_id="r",
        task=a_task("chat", text=True),
        expert=None,
        messages=conversation(*texts).messages,
        parameters=GenerationParameters(max_tokens=5),
        budget=BudgetRequest(),
        deadline_s=10.0,
        prefix_scope=scope,
    )


def answered(cached_tokens: int | None, *, prompt_tokens: int = 564, text: str = "The end.") -> Done:
    energy = Energy(0.5, Provenance.MEASURED, "rapl")
    return Done(1, {}, text, "stop", prompt_tokens, 5, energy, 0.0, 0.0, cached_tokens=cached_tokens)


def hear(board: ArmBoard, query: TextQuery, done: Done, index: int = 0) -> None:
    state = board.states[index]
    state.text.heard(Reading(query).of(state.arm), done)


def a_text_board(**fields: object) -> ArmBoard:
    arms = [an_arm("speaker", node, task="chat", energy_j=0.03, text=replace(PROFILE, **fields)) for node in ("a", "b")]  # type: ignore[arg-type]
    return a_board(*arms)


def test_a_follow_up_is_known_as_far_as_it_repeats_what_was_read() -> None:
    known = Prefixes()
    known.read(conversation(STORY).chain("The end."))
    size = len(STORY.encode())
    follow_up = known.known_bytes(conversation(STORY, "The end.", "And then?").chain())
    assert size - BLOCK_BYTES < follow_up <= size + 2 * BLOCK_BYTES
    changed = STORY[: size // 2] + "X" + STORY[size // 2 + 1 :]
    assert size // 2 - BLOCK_BYTES - 8 <= known.known_bytes(conversation(changed).chain()) <= size // 2 + 8
    assert known.known_bytes(conversation("Y" + STORY).chain()) == 0


@pytest.mark.parametrize("size_bytes", [1, 110, 120, 1000, 512 * BLOCK_BYTES - 7, 513 * BLOCK_BYTES])
@pytest.mark.parametrize("answer", ["", "x", "x" * 300])
def test_an_answer_goes_on_where_its_question_ended(size_bytes: int, answer: str) -> None:
    talk = conversation("y" * size_bytes)
    asked, answered = talk.chain(), talk.chain(answer)
    # Role, end of role, end of text, end of message; an answer has no end yet.
    whole_bytes = len("user") + size_bytes + 3 + (len("assistant") + 1 + len(answer) if answer else 0)
    assert len(answered) == min(whole_bytes // BLOCK_BYTES, MAX_BLOCKS)
    assert answered == conversation("y" * size_bytes, answer).chain()[: len(answered)]
    assert answered[: len(asked)] == asked == talk.chain() == conversation("y" * size_bytes).chain()


def test_what_one_scope_has_sent_is_unknown_in_another_and_nothing_is_without_one() -> None:
    known = Prefixes()
    known.read(conversation(STORY).chain())
    assert known.known_bytes(conversation(STORY).chain()) > 0
    assert known.known_bytes(conversation(STORY, scope=BOB).chain()) == 0
    assert conversation(STORY, scope="").chain() == ()


def test_scopes_are_of_tenant_and_user_and_tell_neither() -> None:
    assert scope_of("acme", "ada") == ADA != BOB
    assert scope_of("acmea", "da") != ADA
    # Scopes are hexadecimal: names that are not could only be there in plain text.
    scope = scope_of("quux", "xyz")
    assert "quux" not in scope
    assert "xyz" not in scope


def test_roles_are_part_of_what_was_said() -> None:
    other = Conversation(ADA, (Message("system", STORY),))
    assert not set(other.chain()) & set(conversation(STORY).chain())


def test_what_is_kept_is_bounded_and_ends_leave_before_beginnings() -> None:
    known = Prefixes()
    first = conversation(STORY).chain()
    known.read(first)
    for number in range(KEPT_BLOCKS // len(first) + 1):
        known.read(conversation(f"{number} {STORY}").chain())
        if number % 50 == 0:
            known.read(first[:2])
    assert known.known_bytes(first) == 2 * BLOCK_BYTES
    assert len(known._known) <= KEPT_BLOCKS


def test_joules_and_milliseconds_leave_out_what_is_kept_and_promises_do_not() -> None:
    board, query = a_text_board(), asked(STORY)
    before = text_figures(board, query)
    hear(board, query, answered(0))
    again = text_figures(board, query)
    now, then = again.cost_n[0], before.cost_n[0]
    cached = now.cached_tokens
    assert cached > 0.9 * now.prompt_tokens
    # Of one more token every further figure of the profile is the same.
    prefill_ms = now.prompt_tokens - cached
    assert now.service_ms == pytest.approx(1.0 + prefill_ms)
    assert now.energy_j == pytest.approx(0.001 * prefill_ms)
    bound = now.service_bound_ms / then.service_bound_ms
    assert bound == pytest.approx(now.prompt_tokens / then.prompt_tokens, rel=0.01)
    assert now.energy_bound_j > 0.9 * then.energy_bound_j


def test_another_user_pays_the_whole_prompt() -> None:
    board = a_text_board()
    hear(board, asked(STORY), answered(0))
    figures = text_figures(board, asked(STORY, scope=BOB))
    assert [cost.cached_tokens for cost in figures.cost_n.values()] == [0.0, 0.0]
    one, other = figures.cost_n[0], figures.cost_n[1]
    assert one.energy_j == other.energy_j or one.prompt_tokens != other.prompt_tokens


def test_an_arm_that_forgets_is_believed_less_and_less() -> None:
    board, query = a_text_board(), asked(STORY)
    hear(board, query, answered(0))
    trusted = text_figures(board, query).cost_n[0].cached_tokens
    for _ in range(8):
        hear(board, query, answered(0))
    assert text_figures(board, query).cost_n[0].cached_tokens < 0.1 * trusted
    for _ in range(8):
        hear(board, query, answered(560))
    assert text_figures(board, query).cost_n[0].cached_tokens > 0.9 * trusted


def test_an_arm_that_tells_nothing_changes_no_price_but_is_preferred_to_its_equals() -> None:
    board, query = a_text_board(), asked(STORY)
    hear(board, query, answered(None, prompt_tokens=0), index=1)
    figures = text_figures(board, query)
    new, known = figures.cost_n[0], figures.cost_n[1]
    assert 0.0 < known.cached_tokens <= UNTOLD_FRACTION * known.prompt_tokens
    assert 0.98 * new.service_ms < known.service_ms < new.service_ms


def test_an_arm_of_single_turns_reads_the_last_question_only() -> None:
    several, single = a_text_board(), a_text_board(capabilities=frozenset({SINGLE_TURN}))
    query = asked(STORY, "The end.", "And then?")
    least, most = (text_figures(board, query).cost_n[0].prompt_tokens for board in (single, several))
    assert least < 0.05 * most
    for board in (several, single):
        hear(board, asked(STORY), answered(0))
    assert text_figures(several, query).cost_n[0].cached_tokens > 400.0
    assert text_figures(single, query).cost_n[0].cached_tokens == 0.0


def test_for_vectors_also_an_arm_of_single_turns_reads_everything() -> None:
    single = a_text_board(capabilities=frozenset({SINGLE_TURN}))
    query = asked(STORY, "The end.", "And then?")
    vectors = Reading(replace(query, parameters=replace(query.parameters, embed=True)))
    assert vectors.of(single.states[0].arm).messages == query.messages
    assert Reading(query).of(single.states[0].arm).messages == query.messages[-1:]


def test_tokens_that_were_not_read_teach_nothing_of_what_reading_costs() -> None:
    learned = []
    for cached in (0, 500):
        board = a_text_board()
        for _ in range(200):
            board.generated(0, answered(cached, prompt_tokens=600), service_ms=101.0)
        learned.append(board.states[0].text.profile(board.states[0].arm.text or PROFILE).prefill_ms_per_token)
    assert learned[0] < 0.5
    assert learned[1] == pytest.approx(1.0, rel=0.1)
