"""A gateway, an agent in this process with experts that ship, and OpenAI's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from nodes.agent.agent import Agent
from nodes.config import parse_config
from tests.fakes.live import live_gateway, until


@asynccontextmanager
async def house(folder: Path, *experts: str, **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    """The client, once the experts are planned for; `settings` are the agent's."""
    async with live_gateway(folder) as live:
        base = {"gateway": live.address, "name": "box", "experts": experts, "profiling_s": 0.05}
        agent = Agent(parse_config({**base, "profile": "laptop-cpu", "energy": "modelled", **settings}))
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: live.gateway.planner.standing("skills"), timeout_s=20.0)
            async with AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0, timeout=20) as client:
                yield client
        finally:
            agent.drain("the test ends")
            await running
            await agent.close()
