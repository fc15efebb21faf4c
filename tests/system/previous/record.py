"""Keep what an agent and a gateway of this release say to each other: ``python -m tests.system.previous.record``.

Belongs to the making of a release, like ``python -m deploy.stubs --release``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.agents import running_agent
from tests.fakes.live import live_gateway, until
from tests.orchestrator.gateway.calls import digit, infer
from tests.system.previous.relay import relaying
from tests.system.previous.wire import FOLDER, SAME

FILE = FOLDER / "session.jsonl"


def recorded() -> Iterator[tuple[str, bytes]]:
    """Who said what, in order."""
    for line in FILE.read_text().splitlines():
        entry = json.loads(line)
        yield entry["from"], base64.b64decode(entry["bytes"])


async def record() -> None:
    """One node joins, gives its evidence, answers two requests and leaves."""
    with tempfile.TemporaryDirectory() as folder:
        async with live_gateway(Path(folder)) as live, relaying(live.address, SAME) as (address, relay):
            async with running_agent(address):
                await until(lambda: live.gateway.planner.standing("digits"))
                for _ in range(2):
                    await infer(live, digit())
            lines = [{"from": who, "bytes": base64.b64encode(data).decode()} for who, data in relay.heard]
    FILE.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


if __name__ == "__main__":
    asyncio.run(record())
