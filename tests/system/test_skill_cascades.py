"""The text experts that ship behind a gateway that learns from their evidence: what it does is what a replay says.

The benchmark of skills replays the gate on answers that are known; here the same questions go over real sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from nodes.agent.agent import Agent
from nodes.config import parse_config
from nodes.worker.text.library import Library
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.judging import MAX_TOKENS, Answers, answer_all
from nodes.zoo.skills.suites import Split, judging_questions
from optimizer.deciding.model import TaskModel
from optimizer.heads.texts import TextHeads
from optimizer.routes.route import Fusion
from orchestrator.routing.combined import CombinedModel
from tests.fakes.live import Live, live_gateway, until
from tests.optimizer.gate.needed import needs_native

QUESTIONS = judging_questions(Split.VALIDATION, 42, seed=7)


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Live]:
    """A gateway and a node with all text experts that ship, learned from."""
    experts = tuple(card.name for card in load_text_catalog().experts)
    async with live_gateway(folder) as live:
        given = {"gateway": live.address, "name": "box", "experts": experts, "profiling_s": 0.05}
        agent = Agent(parse_config({**given, "profile": "laptop-cpu", "energy": "modelled"}))
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: learned(live), timeout_s=60.0)
            yield live
        finally:
            agent.drain("the test ends")
            await running
            await agent.close()


def learned(live: Live) -> TaskModel | None:
    """What the gateway learned of the task; None until it has."""
    standing = live.gateway.planner.standing("skills")
    model = standing.plan.model if standing else None
    inner = model.model if isinstance(model, CombinedModel) else model
    return inner if isinstance(inner, TaskModel) else None


def surer(model: TaskModel, answers: dict[str, Answers], experts: list[str], q: int) -> str:
    """The expert whose answer to a question counts as the surest, by what the model learned."""
    assert isinstance(model.heads, TextHeads)
    foreseen = model.heads.foreseen(QUESTIONS[q].prompt)

    def sure(expert: str) -> float:
        told, row = answers[expert], model.experts.index(expert)
        length = float(told.completion_tokens_q[q])
        assert isinstance(model.heads, TextHeads)
        return model.heads.confidence(row, float(told.margin_q[q]), length, foreseen=foreseen)

    return max(experts, key=sure)


async def ask(client: AsyncOpenAI, prompt: str) -> tuple[str, list[str]]:
    """The answer, and the experts that were asked for one, in order."""
    reply = await client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=MAX_TOKENS,
        extra_body={"task": "skills", "budget": {"profile": "best"}},
    )
    told: Any = reply.model_extra
    attempts = told["routing"]["attempts"]
    return reply.choices[0].message.content or "", [attempt["arm"].split(":")[0] for attempt in attempts]


@needs_native
async def test_pairs_of_the_experts_that_ship_are_run_as_they_are_replayed(tmp_path: Path) -> None:
    catalog, library = load_text_catalog(), Library()
    for card in catalog.experts:
        library.load(card.name, str(catalog.model_path(card)), card.sha256)
    answers = {card.name: answer_all(library.arm(card.name), QUESTIONS) for card in catalog.experts}
    async with (
        fleet(tmp_path) as live,
        AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        model = learned(live)
        assert model is not None
        replies = [await ask(client, question.prompt) for question in QUESTIONS]
    pairs = {route.experts for route in model.routes if route.fusion is Fusion.SUREST}
    pairs -= {route.experts for route in model.routes if route.fusion is not Fusion.SUREST}
    both = [(q, said, asked) for q, (said, asked) in enumerate(replies) if tuple(asked) in pairs]
    alone = [(q, said, asked[0]) for q, (said, asked) in enumerate(replies) if len(asked) == 1]
    assert len(both) >= 3
    assert len(alone) >= 3
    assert all(said == answers[expert].given[q] for q, said, expert in alone)
    assert all(said == answers[surer(model, answers, asked, q)].given[q] for q, said, asked in both)
    # The control: neither of the two is taken for its place.
    different = [(q, said, asked) for q, said, asked in both if len({answers[one].given[q] for one in asked}) == 2]
    stood = [[answers[one].given[q] for one in asked].index(said) for q, said, asked in different]
    assert {*stood} == {0, 1}
