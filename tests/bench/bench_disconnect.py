"""A client goes away in the middle of a text: how soon is the node's slot free, and does the gateway know it?

OpenAI's client over HTTP, a real gateway, a real agent, and a server behind it that says a word every 50 ms for nearly
a minute, all in one process: the time from closing the connection until the agent's engine holds no slot and the
gateway counts no work on the node, for streams and for whole replies. As the control the client stays: then the slot
must still be taken after several times the bar.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openai import AsyncOpenAI

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.config import parse_config
from nodes.engines.remote.engine import RemoteEngine
from nodes.engines.remote.measuring import profile_texts
from nodes.engines.remote.offer import RemoteModel, remote_inventory
from nodes.engines.remote.parts import remote_energy
from nodes.engines.remote.server import Address, Server
from tests.bench.harness import Bar, Row, main
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.openai_server import Script, openai_server

BARS = (Bar("slot_free_ms_stream_max", 100.0, "<="), Bar("slot_free_ms_whole_max", 100.0, "<="))
REPEATS = 30
CONTROL_S = 0.5
POLL_S = 0.0005
NODE = "box"
MODEL = RemoteModel("tiny:1b", 0.7, (), 4096, ())
TALKATIVE = Script(pieces=lambda _body: ["word "] * 1000, token_s=0.05)
HELLO: list[Any] = [{"role": "user", "content": "say hello"}]


@dataclass
class House:
    """Everything that a text passes."""

    live: Live
    engine: RemoteEngine
    client: AsyncOpenAI

    @property
    def taken(self) -> int:
        """Slots of the node, and work that the gateway counts there."""
        return self.engine.running + self.live.gateway.service.fleet.board.nodes[NODE].pending


@asynccontextmanager
async def _house(folder: Path) -> AsyncIterator[House]:
    async with openai_server(Script()) as server, live_gateway(folder) as live:
        config, address = (
            parse_config({"gateway": live.address, "name": NODE, "openai": server.url}),
            Address(server.url),
        )
        engine = RemoteEngine(Server(address), {"tiny-1b:remote": "tiny:1b"}, concurrency=4, queue_limit=8)
        parts = Parts(engine, remote_energy(config, address), remote_inventory([MODEL], "chat"), profile_texts)
        agent = Agent(config, parts)
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: live.gateway.planner.standing("chat"))
            server.script = TALKATIVE
            async with AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0, timeout=30) as client:
                yield House(live, engine, client)
        finally:
            agent.drain("the benchmark ends")
            await running
            await agent.close()


async def _freed_ms(house: House, *, stream: bool, stay_s: float = 0.0) -> float:
    """Milliseconds from closing one request until its slot is free; a client that stays meanwhile must keep it."""
    asking = asyncio.ensure_future(house.client.chat.completions.create(model="auto", messages=HELLO, stream=stream))
    await until(lambda: house.taken == 2 or asking.done())
    if stream:
        text: Any = await asking
        await anext(aiter(text))
    await asyncio.sleep(stay_s)
    if house.taken != 2:
        raise SystemExit(f"{house.taken} slots taken before anybody left, not 2: nothing was measured ({asking})")
    left_s = time.monotonic()
    if stream:
        await text.close()
    else:
        asking.cancel()
    while house.taken:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return (time.monotonic() - left_s) * 1e3


async def _measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with _house(Path(folder)) as house:
            for name, stream in ("stream", True), ("whole", False):
                await _freed_ms(house, stream=stream, stay_s=CONTROL_S)
                freed_ms = [await _freed_ms(house, stream=stream) for _ in range(REPEATS)]
                sizes: dict[str, object] = {"repeats": REPEATS, "control_s": CONTROL_S}
                rows += [
                    Row(f"slot_free_ms_{name}_median", float(np.median(freed_ms)), "ms", sizes),
                    Row(f"slot_free_ms_{name}_max", max(freed_ms), "ms", sizes),
                ]
    return rows


def run() -> list[Row]:
    """All rows. Cost: about 5 s."""
    return asyncio.run(_measure())


if __name__ == "__main__":
    main(stem="disconnect", run=run, bars=BARS)
