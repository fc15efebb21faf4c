"""Keeps llama-server's contract as far as a node uses it: its flags, its key, 503 while it loads, OpenAI's chat.

``python -m tests.fakes.llama_server`` with llama-server's arguments; FAKE_LLAMA holds a JSON object with what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import FakeOpenAI, Script, _reply

REPOSITORY = Path(__file__).parents[2]


class FakeLlama(FakeOpenAI):
    """The server: everything but the health wants the key, and nothing is served before the model is loaded."""

    def __init__(self, script: Script, *, ready_s: float) -> None:
        super().__init__(script)
        self._ready_s = ready_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; the first request decides whether it is about the health."""
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split()[1].endswith(b"/health"):
            loaded = time.monotonic() >= self._ready_s
            body = {"status": "ok"} if loaded else {"error": {"code": 503, "message": "Loading model"}}
            await _reply(writer, 200 if loaded else 503, body)
            writer.close()
            return
        again = asyncio.StreamReader()
        again.feed_data(head)
        asyncio.ensure_future(_pass_on(reader, again))  # noqa: RUF006 (ends with the connection)
        await super().serve(again, writer)


async def _pass_on(reader: asyncio.StreamReader, to: asyncio.StreamReader) -> None:
    while data := await reader.read(65_536):
        to.feed_data(data)
    to.feed_eof()


def wrapper(folder: Path) -> Path:
    """A program in `folder` that is started as llama-server is."""
    file = folder / "llama-server"
    path = f"{REPOSITORY}:{REPOSITORY}/proto"
    file.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m tests.fakes.llama_server "$@"\n')
    file.chmod(0o755)
    return file


async def _main(arguments: argparse.Namespace, wanted: dict[str, Any]) -> None:
    words = list(wanted.get("pieces", ["forty", "-two"]))
    script = Script(
        pieces=lambda _body: words,
        models=(arguments.alias,),
        token_s=wanted.get("token_s", 0.0),
        key=os.environ["LLAMA_API_KEY"],
    )
    fake = FakeLlama(script, ready_s=time.monotonic() + wanted.get("load_s", 0.0))
    server = await asyncio.start_server(fake.serve, arguments.host, arguments.port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--alias", "--host"):
        parser.add_argument(flag, required=True)
    for flag in ("--port", "--parallel", "--ctx-size"):
        parser.add_argument(flag, required=True, type=int)
    wanted = json.loads(os.environ.get("FAKE_LLAMA", "{}"))
    if wanted.get("fails"):
        sys.exit(f"error: {wanted['fails']}")
    asyncio.run(_main(parser.parse_args(), wanted))


if __name__ == "__main__":
    main()
