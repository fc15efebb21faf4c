"""Which arms a text may run on: kept for the next text, as long as the same arms are there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import RequestError
from orchestrator.fleet.arms import ArmBoard
from orchestrator.gateway.texts import Demands
from orchestrator.text_profile import TextProfile
from orchestrator.types import BudgetRequest, GenerationParameters, Message, TextQuery
from tests.orchestrator.builders import a_board, a_task, an_arm

PROFILE = TextProfile(5.0, 0.1, 1.0, 0.001, 0.0001, 0.001, context_tokens=64)


def a_query(said: str = "hello", *, needs: frozenset[str] = frozenset()) -> TextQuery:
    return TextQuery(
        request_id="r",
        task=a_task("chat", text=True),
        expert=None,
        messages=(Message("user", said),),
        parameters=GenerationParameters(max_tokens=8),
        budget=BudgetRequest(),
        deadline_s=10.0,
        needs=needs,
    )


def two_nodes() -> ArmBoard:
    arms = [an_arm("small", node, task="chat", text=PROFILE) for node in ("n1", "n2")]
    return a_board(*arms)


def fitting(demands: Demands, query: TextQuery) -> list[int]:
    return [state.index for state in demands.of(query).place.fitting]


def test_arms_that_go_and_come_and_change_are_seen() -> None:
    board = two_nodes()
    demands = Demands(board)
    assert fitting(demands, a_query()) == [0, 1]
    assert demands.of(a_query()).place is demands.of(a_query("what else?")).place
    board.set_routable("n1", routable=False)
    assert fitting(demands, a_query()) == [1]
    board.set_routable("n1", routable=True)
    tools = frozenset({"tools"})
    with pytest.raises(RequestError, match="declares: tools"):
        demands.of(a_query(needs=tools))
    able = an_arm("small", "n2", task="chat", text=replace(PROFILE, capabilities=tools))
    board.announce("n2", [able, an_arm("new", "n2", task="chat", text=PROFILE)], 2)
    assert fitting(demands, a_query(needs=tools)) == [1]
    assert demands.of(a_query(needs=tools)).place.unfit == {0, 2}
    assert fitting(demands, a_query()) == [0, 1, 2]


def test_one_long_prompt_keeps_no_arm_from_the_next_text() -> None:
    board = two_nodes()
    board.announce("n2", [an_arm("small", "n2", task="chat", text=replace(PROFILE, context_tokens=4096))], 2)
    demands = Demands(board)
    for _ in range(2):
        assert fitting(demands, a_query("x" * 400)) == [1]
        assert demands.of(a_query("x" * 400)).place.unfit == {0}
        assert fitting(demands, a_query()) == [0, 1]
    with pytest.raises(RequestError, match="take at most 4096"):
        demands.of(a_query("x" * 20_000))


def test_an_expert_that_nobody_has_is_not_kept() -> None:
    demands = Demands(two_nodes())
    for number in range(3):
        assert not demands.of(replace(a_query(), expert=f"made-up-{number}")).place.fitting
    assert not demands._places
    assert fitting(demands, replace(a_query(), expert="small")) == [0, 1]
