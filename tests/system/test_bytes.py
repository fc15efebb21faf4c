"""A text of real experts of three vocabularies on three nodes, each agent and engine a process of its own, over HTTP.
One has its words under other ids, one has no words at all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from nodes.worker.text.model import LanguageModel
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.writing import Order
from orchestrator.execution.bytewise import Draws, likeliest
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.respelled import respelled, words_of
from tests.fakes.spellers import write

# The words of each: as they come, backwards, none.
EXPERTS = ("skills-general", "skills-dates", "skills-strings")
QUESTIONS = ("Give me the capitals of the word luzx.", "What is the day that comes 12 days after Monday?")
STEPS = 40


@dataclass
class House:
    """A gateway and an agent for each expert."""

    live: Live
    models: dict[str, LanguageModel]
    agents: dict[str, asyncio.subprocess.Process]

    def weights(self, experts: Sequence[str]) -> tuple[float, ...]:
        """With which these experts write together; nothing where no route has them all."""
        standing = self.live.gateway.planner.standing("skills")
        routes = standing.plan.model.routes if standing else ()
        return next((r.weights for r in routes if r.fusion.value == "bytes" and r.experts == tuple(experts)), ())

    async def ask(self, question: str, *, go_on: bool = False, **fields: Any) -> tuple[str, list[str], dict[str, Any]]:
        """Text, pieces and what else the reply says."""
        fusion = {"mode": "bytes", "max_experts": 3, "continue_on_loss": go_on}
        async with AsyncOpenAI(base_url=f"{self.live.http}/v1", api_key="none", max_retries=0, timeout=30) as client:
            create: Any = client.chat.completions.create
            stream = await create(
                model="auto:best",
                messages=[{"role": "user", "content": question}],
                stream=True,
                max_tokens=STEPS,
                extra_body={"fusion": fusion, "task": "skills"},
                **fields,
            )
            chunks = [chunk async for chunk in stream]
        pieces = [
            chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
        ]
        return "".join(pieces), pieces, next(chunk.model_extra for chunk in reversed(chunks) if chunk.model_extra)

    def in_one_process(self, experts: Sequence[str], weights: Sequence[float], question: str, **fields: Any) -> str:
        """The same experts at the same weights without nodes and wires."""
        temperature, seed = fields["temperature"], fields["seed"]
        order = Order(question, sampling=Sampling(temperature), seed=seed)
        choose = Draws(seed).choose if temperature else likeliest
        models = [self.models[expert] for expert in experts]
        return write(models, order, weights=weights, choose=choose, steps=STEPS).text


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    words: dict[str, list[str] | None] = dict(zip(EXPERTS, (list(words_of(EXPERTS[0])), None, []), strict=True))
    agents: dict[str, asyncio.subprocess.Process] = {}
    models = {}
    async with live_gateway(folder / "state") as live:
        try:
            for expert in EXPERTS:
                models[expert] = respelled(expert, words[expert], folder / expert)
                told = (live.address, expert.removeprefix("skills-"), expert, str(folder / expert))
                agents[expert] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.fakes.unread_agent", *told),
                    env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(folder)},
                    stderr=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            found = House(live, models, agents)
            await until(lambda: found.weights(EXPERTS), timeout_s=60.0)
            yield found
        finally:
            for agent in agents.values():
                if agent.returncode is None:
                    os.killpg(agent.pid, signal.SIGKILL)
                await agent.wait()


async def test_three_vocabularies_write_one_text_as_they_do_in_one_process(tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        assert len({model.tokenizer.digest for model in found.models.values()}) == 3
        several = 0
        for question in QUESTIONS:
            for temperature, seed in ((0.0, 1), (1.0, 2), (1.0, 3)):
                fields: dict[str, Any] = {"temperature": temperature, "seed": seed}
                text, pieces, told = await found.ask(question, **fields)
                assert told["routing"]["fusion"] == "bytes"
                experts = [name.partition("@")[0] for name in told["routing"]["experts"]]
                assert text == found.in_one_process(experts, found.weights(experts), question, **fields)
                joules = [node["joules"] for node in told["energy"]["nodes"]]
                assert len(joules) == len(experts)
                assert min(joules) > 0.0
                several += len(pieces) > 1
        assert several >= 2, "a text comes as it is written"


async def test_an_agent_that_stands_still_is_done_without_where_that_is_allowed(tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        fields: dict[str, Any] = {"temperature": 0.0, "seed": 1}
        _, _, told = await found.ask(QUESTIONS[1], **fields)
        experts = [name.partition("@")[0] for name in told["routing"]["experts"]]
        os.killpg(found.agents[experts[-1]].pid, signal.SIGSTOP)
        text, _, told = await found.ask(QUESTIONS[1], go_on=True, **fields)
        reasons = {one["arm"].partition(":")[0]: one["reason"] for one in told["routing"]["attempts"]}
        assert reasons[experts[-1]] in ("LATE", "NODE_GONE")
        left = experts[:-1]
        assert text == found.in_one_process(left, found.weights(experts)[: len(left)], QUESTIONS[1], **fields)
