"""A gateway that was started again is asked for what nodes serve that are on their way back."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway, until
from tests.orchestrator.gateway.calls import chat, digit, generate, infer, refusal

SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def asked(live: Live, path: str, **body: Any) -> tuple[int, str, str | None]:
    """Status, code and Retry-After of a call that is refused."""
    request = Request(live.http + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with pytest.raises(HTTPError) as caught, urlopen(request, timeout=5):
        pass
    told = json.loads(caught.value.read())
    return caught.value.code, told.get("code") or told["error"]["code"], caught.value.headers["retry-after"]


async def test_what_only_they_may_have_is_worth_a_retry_until_they_are_back(tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    async with AsyncExitStack() as lost:
        async with live_gateway(tmp_path) as before:
            async with before.node(name="n2", behaviour=answers(7)):
                await until(lambda: file.exists() and json.loads(file.read_text()) == ["n2"])
            # It is taken off for good; the other one has just come when the gateway ends.
            await until(lambda: json.loads(file.read_text()) == [])
            await lost.enter_async_context(before.node(name="n1", behaviour=answers(7)))
        assert json.loads(file.read_text()) == ["n1"]
    async with live_gateway(tmp_path) as live:
        for call in (infer(live, digit()), generate(live, chat()), infer(live, digit(expert="small"))):
            assert (await refusal(call, "NO_NODE")).retry_s == 1.0
        async with live.node(
            name="n3", arms=[FakeArm("other"), FakeArm("talker", task="speech")], behaviour=answers(7)
        ):
            letters = digit(task="letters")
            for call in (infer(live, letters), generate(live, chat()), infer(live, digit(expert="small"))):
                assert (await refusal(call, "NO_NODE")).retry_s == 1.0
            # It is told by the id under which it is in the log.
            found = await refusal(infer(live, digit(expert="small", request_id="mine")), "NO_NODE")
            assert found.metadata["requestId"] == "mine"
            for path, body in (
                ("/v1/chat/completions", SAID | {"model": "speaker"}),
                ("/v1/chat/completions", SAID | {"task": "chat"}),
                ("/v2/models/small/infer", {"inputs": []}),
            ):
                assert await asyncio.to_thread(asked, live, path, **body) == (503, "no_node", "1")
            assert (await infer(live, digit())).label == "7"
            async with live.node(name="n1", behaviour=answers(7)):
                await refusal(infer(live, digit(expert="never")), "EXPERT_NOT_FOUND")
                await refusal(infer(live, letters), "TASK_NOT_FOUND")
                told = await asyncio.to_thread(asked, live, "/v1/chat/completions", **SAID, task="chat")
                assert told == (404, "task_not_found", None)
