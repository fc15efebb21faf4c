"""What OpenAI's clients rely on beside the answer: ids, paths that are none, fields that would be left out silently."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live
from tests.orchestrator.door.raw import get, post

CHAT = FakeArm("small", task="chat", energy_j=0.1)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


async def test_the_clients_own_request_id_is_that_of_the_gateway(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("hi")):
        reply = await openai.chat.completions.create(model="auto", messages=HELLO)
        assert reply.id == f"chatcmpl-{reply._request_id}"
        stream = await openai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        assert stream.response.headers["x-request-id"] == stream.response.headers["x-edgewise-request-id"]
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.chat.completions.create(model="auto", messages=[])
        said: Any = refused.value.body
        assert refused.value.request_id == said["request_id"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/models/", "/v2/nothing", "/nothing"])
async def test_a_path_that_is_none_is_refused_in_the_words_of_its_clients(live: Live, path: str) -> None:
    answer = await get(live, path)
    assert answer.status == 404
    if path.startswith("/v1/"):
        told = answer.json["error"]
        assert (told["type"], told["code"]) == ("not_found_error", "path_not_found")
    else:
        assert answer.json["code"] == "path_not_found"


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [("echo", True, False), ("suffix", ".", False), ("echo", False, True), ("suffix", "", True)],
)
async def test_what_would_change_the_answer_is_not_left_out(
    live: Live, openai: AsyncOpenAI, field: str, value: Any, taken: bool
) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("hi")):
        asked: dict[str, Any] = {"model": "auto", "prompt": "hello", field: value}
        if taken:
            assert (await openai.completions.create(**asked)).choices[0].text == "hi"
            return
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.completions.create(**asked)
        assert (refused.value.code, refused.value.param) == ("capability_missing", field)


@pytest.mark.parametrize("prompt", [[], "", ["a", "b"], [1, 2], [[1, 2]], None, 7])
async def test_a_prompt_is_one_text(live: Live, prompt: Any) -> None:
    answer = await post(live, "/v1/completions", {"model": "auto", "prompt": prompt})
    assert answer.status == 400
    assert (answer.json["error"]["param"], "one text" in answer.json["error"]["message"]) == ("prompt", True)


async def test_what_was_asked_too_fast_says_what_would_do(live: Live, openai: AsyncOpenAI) -> None:
    slow = FakeArm("slow", task="chat", energy_j=0.1, text={"prefill_ms_per_token": 1.0, "decode_ms_per_token": 5.0})
    async with live.node(arms=[slow], behaviour=speaks("hi")):
        with pytest.raises(sdk.UnprocessableEntityError) as refused:
            await openai.chat.completions.create(
                model="auto", messages=HELLO, extra_body={"budget": {"max_tpot_ms": 1}}
            )
        told: Any = refused.value.body
        assert told["min_feasible"]["tpot_ms"] >= 5.0
        enough = {"budget": {"max_tpot_ms": told["min_feasible"]["tpot_ms"] * 1.01}}
        assert (await openai.chat.completions.create(model="auto", messages=HELLO, extra_body=enough)).model == "slow"
