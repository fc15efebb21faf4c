"""One text of real experts on three nodes, each agent and each engine a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgewise.v1 import common_pb2, gateway_pb2
from nodes.worker.text.batcher import Batcher
from nodes.worker.text.library import Library
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.writing import Order
from nodes.zoo.language.catalog import load_text_catalog
from optimizer.routes.route import Fusion, Route
from tests.fakes.live import Live, live_gateway, until

EXPERTS = ("skills-dates", "skills-arithmetic", "skills-strings")
QUESTION = "What is the number of weeks that 49 days are?"
TOKENS = 40


@dataclass
class House:
    """A gateway and an agent for each expert."""

    live: Live
    agents: dict[str, asyncio.subprocess.Process]

    @property
    def routes(self) -> list[Route]:
        """Those in turns."""
        standing = self.live.gateway.planner.standing("skills")
        return [route for route in standing.plan.model.routes if route.fusion is Fusion.TOKEN] if standing else []

    def taken(self, done: gateway_pb2.GenerateDone) -> Route:
        """The route of an answer."""
        decision = self.live.gateway.service.journal.get(done.request_id, None).decision
        assert decision is not None
        assert decision.route is not None
        return decision.route.route


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    agents = {}
    async with live_gateway(folder / "state") as live:
        try:
            for expert in EXPERTS:
                told = (live.address, expert.removeprefix("skills-"), expert)
                agents[expert] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.fakes.unread_agent", *told),
                    env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(folder)},
                    stderr=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            found = House(live, agents)
            await until(lambda: len(found.routes) == 2, timeout_s=60.0)
            yield found
        finally:
            for agent in agents.values():
                if agent.returncode is None:
                    os.killpg(agent.pid, signal.SIGKILL)
                await agent.wait()


def request(**fields: Any) -> gateway_pb2.GenerateRequest:
    fusion = common_pb2.Fusion(mode=common_pb2.FUSION_MODE_TOKEN, continue_on_loss=fields.pop("go_on", False))
    budget = common_pb2.Budget(**fields.pop("budget", {}), profile="best")
    parameters = {"max_tokens": TOKENS, "temperature": 1.0, "seed": 5} | fields
    return gateway_pb2.GenerateRequest(
        task="skills",
        fusion=fusion,
        budget=budget,
        messages=[common_pb2.ChatMessage(role="user", content=QUESTION)],
        parameters=common_pb2.GenerationParameters(**parameters),
    )


async def ask(live: Live, **fields: Any) -> tuple[list[str], gateway_pb2.GenerateDone]:
    pieces, done = [], None
    stub: Any = live.stub
    async for reply in stub.Generate(request(**fields), timeout=30.0):
        if reply.HasField("done"):
            done = reply.done
        else:
            pieces.append(reply.delta.text)
    assert done is not None
    return pieces, done


def in_one_process(route: Route, seed: int, temperature: float) -> str:
    """The same experts at the same weights as one mixture."""
    catalog, library = load_text_catalog(), Library()
    cards = {card.name: card for card in catalog.experts}
    for expert in route.experts:
        library.load(expert, str(catalog.model_path(cards[expert])), cards[expert].sha256)
    mixture = Mixture([library.arm(expert).models[0] for expert in route.experts], route.weights)
    batcher = Batcher()
    running = batcher.join(1, mixture, Order(QUESTION, max_tokens=TOKENS, sampling=Sampling(temperature), seed=seed))
    text = ""
    while not running.writing.finish:
        for one in batcher.step():
            text += one.piece.text if one.piece else ""
    return text


async def test_across_nodes_the_text_is_that_of_one_process(tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        spoke = set()
        for seed in range(6):
            pieces, done = await ask(found.live, seed=seed)
            assert "".join(pieces) == in_one_process(found.taken(done), seed, 1.0)
            assert done.routing.fusion == common_pb2.FUSION_MODE_TOKEN
            joules = {attempt.arm.partition("@")[2]: attempt.energy_j for attempt in done.routing.attempts}
            assert done.energy.energy_j == pytest.approx(sum(joules.values()))
            assert min(joules.values()) > 0.0
            spoke |= set(joules)
        assert len(spoke) >= 2
        # Greedy: the average itself, for which all experts run at every token.
        pieces, done = await ask(found.live, temperature=0.0)
        assert "".join(pieces) == in_one_process(found.taken(done), 0, 0.0)
        assert len(done.routing.attempts) == len(found.taken(done).experts)


async def test_an_agent_that_stands_still_is_done_without_where_that_is_allowed(tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        seed, route, done = 0, Route((("none",),)), gateway_pb2.GenerateDone()
        while len(done.routing.attempts) < 2:
            _, done = await ask(found.live, seed=seed)
            seed, route = seed + 1, found.taken(done)
        stopped = done.routing.attempts[-1].arm.partition(":")[0]
        os.killpg(found.agents[stopped].pid, signal.SIGSTOP)
        pieces, done = await ask(found.live, seed=seed - 1, go_on=True)
        reasons = {attempt.arm.partition(":")[0]: attempt.reason for attempt in done.routing.attempts}
        assert set(reasons) <= set(route.experts)
        assert reasons[stopped] in ("LATE", "NODE_GONE")
        assert done.finish_reason in (common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH)
        assert len(pieces) > 0
