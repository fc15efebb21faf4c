"""Texts through every layer but the processes: OpenAI's client, gateway, node agent, a server of somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.config import parse_config
from nodes.engines.remote.engine import RemoteEngine
from nodes.engines.remote.measuring import profile_texts
from nodes.engines.remote.offer import RemoteModel, remote_inventory
from nodes.engines.remote.parts import remote_energy
from nodes.engines.remote.server import Address, Server
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.openai_server import FakeOpenAI, Script, openai_server

MODEL = RemoteModel("tiny:1b", 0.7, ("tools", "logprobs"), 4096, ("private",))
HELLO: list[Any] = [{"role": "user", "content": "say hello"}]


@dataclass
class House:
    """Everything that a text passes."""

    live: Live
    server: FakeOpenAI
    client: AsyncOpenAI


@asynccontextmanager
async def agent_for(live: Live, server: FakeOpenAI) -> AsyncIterator[Agent]:
    """A node that offers the server's model, joined."""
    config = parse_config({"gateway": live.address, "name": "box", "openai": server.url, "concurrency": 4})
    address = Address(server.url)
    inventory = remote_inventory([MODEL], "chat")
    engine = RemoteEngine(Server(address), {"tiny-1b:remote": "tiny:1b"}, concurrency=4, queue_limit=8)
    agent = Agent(config, Parts(engine, remote_energy(config, address), inventory, profile_texts))
    await agent.prepare()
    running = asyncio.ensure_future(agent.run())
    try:
        await until(lambda: live.gateway.planner.standing("chat"))
        yield agent
    finally:
        agent.drain("the test ends")
        await running
        await agent.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with (
        openai_server(Script()) as server,
        live_gateway(tmp_path) as live,
        agent_for(live, server),
        AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0, timeout=10) as client,
    ):
        server.asked.clear()
        yield House(live, server, client)


async def test_a_chat_through_every_layer(house: House) -> None:
    reply = await house.client.chat.completions.create(model="auto", messages=HELLO, max_tokens=9)
    assert reply.choices[0].message.content == "Hello!"
    assert reply.model == "tiny-1b"
    told: Any = reply.model_extra
    # Nobody here can measure a server's joules: unknown, not zero.
    if told["energy"]["source"] == "unmeasured":
        assert told["energy"]["energy_joules"] is None
    assert told["routing"]["experts"] == ["tiny-1b@box"]
    (body,) = house.server.asked
    assert (body["model"], body["max_tokens"]) == ("tiny:1b", 9)


async def test_tools_reach_the_server_and_its_calls_the_client(house: House) -> None:
    house.server.script = Script(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{}"}}])
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    turn: Any = {"role": "assistant", "tool_calls": [{"id": "c0", "type": "function", "function": {"name": "look"}}]}
    messages: Any = [*HELLO, turn, {"role": "tool", "tool_call_id": "c0", "content": "nothing"}]
    reply = await house.client.chat.completions.create(model="auto", messages=messages, tools=[tool])
    assert reply.choices[0].finish_reason == "tool_calls"
    calls: Any = reply.choices[0].message.tool_calls
    assert (calls[0].function.name, calls[0].function.arguments) == ("look", "{}")
    body = house.server.asked[0]
    assert body["tools"] == [tool]
    assert body["messages"][1]["tool_calls"] == turn["tool_calls"]
    assert body["messages"][2]["tool_call_id"] == "c0"
    stream = await house.client.chat.completions.create(model="auto", messages=messages, tools=[tool], stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream if chunk.choices]
    assert any(delta.tool_calls and delta.tool_calls[0].id == "c1" for delta in deltas)


async def test_a_client_that_goes_away_ends_the_servers_work(house: House) -> None:
    house.server.script = Script(hang_after=1)
    stream = await house.client.chat.completions.create(model="auto", messages=HELLO, stream=True)
    async for _ in stream:
        break
    left_s = time.monotonic()
    await stream.close()
    async with asyncio.timeout(2.0):
        await house.server.gone.wait()
    assert house.server.gone_s - left_s <= 0.3
    await until(lambda: house.live.gateway.service.admission.running == 0)
    assert house.live.gateway.service.fleet.board.nodes["box"].pending == 0


async def test_tags_say_where_a_text_may_go(house: House) -> None:
    create = house.client.chat.completions.create
    allowed = await create(model="auto", messages=HELLO, extra_body={"required_tags": ["private"]})
    assert allowed.model == "tiny-1b"
    with pytest.raises(Exception, match="tags"):
        await create(model="auto", messages=HELLO, extra_body={"required_tags": ["public"]})


async def test_a_server_that_fails_is_told_as_such(house: House) -> None:
    house.server.script = Script(status=500)
    with pytest.raises(Exception, match="No expert could answer"):
        await house.client.chat.completions.create(model="auto", messages=HELLO)
