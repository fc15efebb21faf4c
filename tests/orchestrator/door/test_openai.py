"""The door as OpenAI's own client sees it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import fails, silent, speaks
from tests.fakes.live import Live, until

CHEAP = FakeArm("small", task="chat", energy_j=0.1, quality_fraction=0.7)
DEAR = FakeArm("large", task="chat", energy_j=0.9, quality_fraction=0.9)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
PICTURE: list[Any] = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


async def test_a_chat_carries_what_it_cost_and_how_it_was_routed(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo", "!")):
        raw = await openai.chat.completions.with_raw_response.create(model="auto", messages=HELLO, max_tokens=9)
    reply, headers = raw.parse(), raw.headers
    assert reply.choices[0].message.content == "Hello!"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.model, reply.object) == ("small", "chat.completion")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 3, 6)
    told: Any = reply.model_extra
    assert told["energy"]["energy_joules"] == pytest.approx(0.1)
    assert told["energy"]["energy_kwh"] == pytest.approx(0.1 / 3.6e6)
    assert told["energy"]["source"] == "modelled"
    assert told["energy"]["nodes"] == [{"node": "fake-1", "joules": pytest.approx(0.1), "method": "profile:fake"}]
    assert told["routing"]["experts"] == ["small@fake-1"]
    assert told["routing"]["certificate"].keys() == {"status", "gap", "explored"}
    assert headers["x-energy-joules"] == "0.1"
    assert headers["x-edgewise-experts"] == "small@fake-1"
    assert "infer;dur=" in headers["server-timing"]
    request_id = headers["x-edgewise-request-id"]
    assert reply.id == f"chatcmpl-{request_id}"
    assert live.gateway.service.journal.get(request_id).outcome == "answered"


async def test_a_stream_has_pieces_usage_and_costs(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo")):
        stream = await openai.chat.completions.create(
            model="small", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert said == ["Hel", "lo", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    told: Any = chunks[-1].model_extra
    assert told["energy"]["energy_joules"] == pytest.approx(0.1)


async def test_a_stream_tells_its_joules_in_a_comment_before_its_end(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo")):
        create = openai.chat.completions.with_streaming_response.create
        async with create(model="auto", messages=HELLO, stream=True) as reply:
            lines = [line async for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert lines[-2].startswith(": energy ")
    assert json.loads(lines[-2].removeprefix(": energy "))["energy_joules"] == pytest.approx(0.1)
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-2])


async def test_completions_of_the_old_form(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo")) as node:
        reply = await openai.completions.create(model="auto", prompt="say hello")
        stream = await openai.completions.create(model="auto", prompt="say hello", stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
    assert (reply.choices[0].text, reply.object) == ("Hello", "text_completion")
    assert "".join(pieces) == "Hello"
    assert node.seen.works[0].text.messages[0].content == "say hello"


async def test_what_the_client_says_reaches_the_expert(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("x")) as node:
        await openai.chat.completions.create(
            model="auto",
            messages=[{"role": "system", "content": "be brief"}, *HELLO],
            max_completion_tokens=7,
            temperature=0.5,
            top_p=0.25,
            seed=3,
            stop=["\n", "."],
        )
    sent = node.seen.works[0].text
    assert [(message.role, message.content) for message in sent.messages] == [("system", "be brief"), ("user", "hello")]
    parameters = sent.parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.top_p, parameters.seed) == (7, 0.5, 0.25, 3)
    assert list(parameters.stop) == ["\n", "."]


@pytest.mark.parametrize(
    ("model", "options", "expert"),
    [
        ("auto:best", {}, "large"),
        ("auto:best@0.5J,5s", {}, "small"),
        ("auto:best", {"extra_headers": {"x-edgewise-max-energy-j": "0.5"}}, "small"),
        ("auto:best", {"extra_body": {"budget": {"max_energy_j": 0.5}}}, "small"),
        ("auto@0.5J", {"extra_body": {"budget": {"max_energy_j": 50, "profile": "best"}}}, "large"),
        ("auto@50J", {"extra_headers": {"x-edgewise-max-energy-j": "0.5", "x-edgewise-profile": "best"}}, "small"),
        ("large", {}, "large"),
        ("auto:best", {"extra_body": {"allowed_nodes": ["slow"]}}, "small"),
        ("auto:best", {"extra_headers": {"x-edgewise-allowed-nodes": "slow"}}, "small"),
    ],
)
async def test_budgets_and_places_choose_the_expert(
    live: Live, openai: AsyncOpenAI, model: str, options: dict[str, Any], expert: str
) -> None:
    async with (
        live.node(name="slow", arms=[CHEAP], behaviour=speaks("x")),
        live.node(name="fast", arms=[DEAR], behaviour=speaks("x")),
    ):
        await until(lambda: (known := live.gateway.planner.standing("chat")) and known.table.has("large"))
        reply = await openai.chat.completions.create(model=model, messages=HELLO, **options)
    assert reply.model == expert


async def test_models_are_listed(live: Live, openai: AsyncOpenAI) -> None:
    assert [model.id async for model in openai.models.list()] == []
    async with live.node(arms=[CHEAP, DEAR], behaviour=speaks("x")):
        names = [model.id async for model in openai.models.list()]
        one = await openai.models.retrieve("auto:eco")
        small: Any = await openai.models.retrieve("small")
        with pytest.raises(sdk.NotFoundError):
            await openai.models.retrieve("none-such")
    assert names == ["auto", "auto:eco", "auto:balanced", "auto:best", "large", "small"]
    assert one.id == "auto:eco"
    assert small.arms[0]["typical_joules"] == pytest.approx(0.1)


# ---- errors


async def test_a_budget_that_nothing_fits_says_what_would_do(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("x")):
        with pytest.raises(sdk.UnprocessableEntityError) as caught:
            await openai.chat.completions.create(model="auto@1mJ", messages=HELLO)
        error: Any = caught.value.body
        assert error["code"] == "budget_infeasible"
        needed = error["min_feasible"]["energy_j"]
        reply = await openai.chat.completions.create(
            model="auto", messages=HELLO, extra_body={"budget": {"max_energy_j": needed}}
        )
        cheapest = await openai.chat.completions.create(
            model="auto@1mJ", messages=HELLO, extra_body={"budget": {"on_infeasible": "cheapest"}}
        )
    assert reply.choices[0].message.content == "x"
    told: Any = cheapest.model_extra
    assert told["routing"]["budget_met"] is False


async def test_no_node_and_no_such_model(live: Live, openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.InternalServerError) as caught:
        await openai.chat.completions.create(model="auto", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (503, "no_node")
    assert caught.value.response.headers["retry-after"] == "1"
    async with live.node(arms=[CHEAP], behaviour=speaks("x")):
        with pytest.raises(sdk.NotFoundError) as missing:
            await openai.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_an_error_before_the_first_piece_has_a_status_one_after_it_ends_the_stream(
    live: Live, openai: AsyncOpenAI
) -> None:
    async with live.node(arms=[CHEAP], behaviour=fails()):
        with pytest.raises(sdk.InternalServerError) as caught:
            await openai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        assert caught.value.code == "attempts_failed"
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", then=fails())):
        stream = await openai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        pieces: list[str | None] = []

        async def collect() -> None:
            async for chunk in stream:
                pieces.append(chunk.choices[0].delta.content)

        with pytest.raises(sdk.APIError) as broken:
            await collect()
    assert pieces == ["Hel"]
    assert broken.value.code == "attempts_failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_the_slot(live: Live, openai: AsyncOpenAI, stream: bool) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", then=silent())) as node:
        asking = asyncio.ensure_future(openai.chat.completions.create(model="auto", messages=HELLO, stream=stream))
        work = await node.received(1)
        if stream:
            await asking
        started_s = time.monotonic()
        if stream:
            await asking.result().close()  # type: ignore[union-attr]
        else:
            asking.cancel()
        assert await node.cancelled(work.work_id) - started_s <= 0.1
        await until(lambda: live.gateway.service.admission.running == 0)


# ---- the same id again


async def test_an_id_is_answered_once(live: Live, openai: AsyncOpenAI) -> None:
    headers = {"idempotency-key": "mine-1"}
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo")) as node:
        first = await openai.chat.completions.create(model="auto", messages=HELLO, extra_headers=headers)
        again = await openai.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, extra_headers=headers
        )
        stream = await openai.chat.completions.create(model="auto", messages=HELLO, extra_headers=headers, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        with pytest.raises(sdk.UnprocessableEntityError) as caught:
            await openai.chat.completions.create(model="auto@5J", messages=HELLO, extra_headers=headers)
    assert len(node.seen.works) == 1
    assert again.parse() == first
    assert again.headers["x-edgewise-replayed"] == "true"
    assert "".join(piece or "" for piece in pieces) == "Hello"
    assert caught.value.code == "request_id_reused"


# ---- capabilities


async def test_what_no_expert_declares_is_refused(live: Live, openai: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    picture: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    wants: list[dict[str, Any]] = [
        {"messages": HELLO, "tools": [tool]},
        {"messages": HELLO, "response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": picture}]},
        {"messages": HELLO, "n": 9},
    ]
    async with live.node(arms=[CHEAP], behaviour=speaks("x")) as node:
        for want in wants:
            with pytest.raises(sdk.BadRequestError):
                await openai.chat.completions.create(model="auto", **want)
        assert node.seen.works == []


@pytest.mark.parametrize(
    ("able", "want"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}),
        ("json_schema", {"response_format": {"type": "json_object"}}),
        ("images", {"messages": [{"role": "user", "content": PICTURE}]}),
        ("logprobs", {"logprobs": True}),
    ],
)
async def test_only_who_declares_it_is_asked_and_everybody_where_nobody_needs_it(
    live: Live, openai: AsyncOpenAI, able: str, want: dict[str, Any]
) -> None:
    arms = [replace(CHEAP, text={"capabilities": []}), replace(DEAR, text={"capabilities": [able]})]
    async with live.node(arms=arms, behaviour=speaks("x")) as node:
        await openai.chat.completions.create(**{"model": "auto:eco", "messages": HELLO} | want)
        assert [work.expert for work in node.seen.works] == ["large"]
        # The control: without the need the cheaper one is not out.
        await openai.chat.completions.create(model="small", messages=HELLO)
        with pytest.raises(sdk.BadRequestError) as caught:
            await openai.chat.completions.create(**{"model": "small", "messages": HELLO} | want)
        assert caught.value.code == "capability_missing"
        assert [work.expert for work in node.seen.works] == ["large", "small"]


async def test_explain_tells_what_else_was_considered(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP, DEAR], behaviour=speaks("x")):
        reply = await openai.chat.completions.create(model="auto", messages=HELLO, extra_body={"explain": True})
    told: Any = reply.model_extra
    routes = [candidate["route"] for candidate in told["explanation"]["candidates"]]
    assert {"small:v1@fake-1", "large:v1@fake-1"} <= set(routes)
