"""The door as any ASGI server serves it: replies are our own server's, and a client that leaves ends the work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.gateway.http import Guarded, http_app
from orchestrator.gateway.policy import Doorman
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import silent, speaks
from tests.fakes.live import Live, until

ARM = FakeArm("speaker", task="chat")
CHAT = "/v1/chat/completions"


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}).encode()


class Elsewhere:
    """One request to a server that knows ASGI alone."""

    def __init__(self, live: Live, body: bytes = b"", *, path: str = CHAT, method: str = "POST") -> None:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        self.scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": method, "headers": headers}
        self.scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": ""}
        self.app = Guarded(http_app(live.gateway.service), Doorman(live.gateway.keys))
        self.sent: list[dict[str, Any]] = []
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for part, more in ((body[:7], True), (body[7:], False)):
            self.messages.put_nowait({"type": "http.request", "body": part, "more_body": more})

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def answered(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the reply."""
        await self.app(self.scope, self.messages.get, self.send)
        start, *parts = self.sent
        assert not parts[-1].get("more_body")
        return start["status"], dict(start["headers"]), b"".join(part["body"] for part in parts)


async def test_a_whole_reply_a_stream_and_a_path_with_a_name(live: Live) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("fine")):
        status, headers, body = await Elsewhere(live, asked()).answered()
        assert (status, headers[b"content-type"]) == (200, b"application/json")
        assert int(headers[b"content-length"]) == len(body)
        assert json.loads(body)["choices"][0]["message"]["content"] == "fine"
        status, _, body = await Elsewhere(live, asked(stream=True)).answered()
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        status, _, body = await Elsewhere(live, path="/v1/models/speaker", method="GET").answered()
        assert (status, json.loads(body)["id"]) == (200, "speaker")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [({"path": "/nowhere"}, 404), ({"method": "DELETE"}, 405), ({"body": b"{"}, 400), ({"body": asked(n=0)}, 400)],
)
async def test_what_is_refused(live: Live, wrong: dict[str, Any], status: int) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("fine")):
        assert (await Elsewhere(live, **{"body": asked()} | wrong).answered())[0] == status


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_work(live: Live, stream: bool) -> None:
    async with live.node(arms=[ARM], behaviour=silent()) as node:
        request = Elsewhere(live, asked(stream=stream))
        answering = asyncio.ensure_future(request.app(request.scope, request.messages.get, request.send))
        await until(lambda: node.seen.works)
        request.messages.put_nowait({"type": "http.disconnect"})
        async with asyncio.timeout(5.0):
            await answering
        await until(lambda: node.seen.cancelled_s)
        assert not live.gateway.service.admission.running
