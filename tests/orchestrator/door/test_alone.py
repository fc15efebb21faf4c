"""The reply says whether one expert alone was the best choice."""

from __future__ import annotations

from openai import AsyncOpenAI

from tests.fakes.live import Live
from tests.orchestrator.door.test_fusion import ARMS, ask, says


async def test_one_expert_alone_is_said_to_be_optimal_beside_the_best_combination(
    live: Live, openai: AsyncOpenAI
) -> None:
    async with live.node(arms=ARMS, behaviour=says("Paris")):
        told = (await ask(openai, model="auto:best", explain=True)).model_extra
    alone = told["explanation"]["one_expert_alone"]
    assert alone["chosen"] is True
    assert "+" in alone["rival"]
    assert alone["worth_more"] >= 0.0


async def test_where_nothing_could_be_combined_nothing_is_said_of_it(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=ARMS[:1], behaviour=says("Paris")):
        told = (await ask(openai, explain=True)).model_extra
    assert told["explanation"]["one_expert_alone"] is None


async def test_a_combination_that_was_asked_for_has_no_rival(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=ARMS, behaviour=says("Paris")):
        told = (await ask(openai, fusion={"mode": "vote"}, explain=True)).model_extra
    # One expert alone was not allowed.
    assert told["explanation"]["one_expert_alone"] == {"chosen": False, "rival": None, "worth_more": 0.0}
