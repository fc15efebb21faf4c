"""An engine that asks a played server, and how its tests ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from nodes.engines.contract import TextEnd, TextJob
from nodes.engines.remote.engine import RemoteEngine
from nodes.engines.remote.offer import RemoteModel, remote_inventory
from nodes.engines.remote.server import Address, Server
from tests.fakes.openai_server import FakeOpenAI

ARM = "tiny-1b:remote"
MODEL = RemoteModel("tiny:1b", capabilities=("logprobs",))


@asynccontextmanager
async def engine_for(server: FakeOpenAI, model: RemoteModel = MODEL, **address: Any) -> AsyncIterator[RemoteEngine]:
    """An engine with one slot and one place in its queue, and what the server's address wants besides."""
    inventory = remote_inventory([model], "chat")
    engine = RemoteEngine(Server(Address(server.url, **address)), {ARM: "tiny:1b"}, concurrency=1, queue_limit=1)
    try:
        await engine.load(inventory.arms)
        yield engine
    finally:
        await engine.close()


def job(text: str = "say hello", **fields: Any) -> TextJob:
    return TextJob(ARM, (("user", text),), **fields)


async def answer(engine: RemoteEngine, asked: TextJob) -> tuple[list[str], TextEnd]:
    """The pieces and the end."""
    pieces: list[str] = []
    async with aclosing(engine.generate(asked)) as stream:
        async for item in stream:
            if isinstance(item, TextEnd):
                return pieces, item
            pieces.append(item.text)
    raise AssertionError("no end")
