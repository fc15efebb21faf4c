"""What a careless or hostile client sends over HTTP, and what every refusal must look like."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.door import allowance, asking, exchange
from orchestrator.door.head import ID_HEADERS, Head
from orchestrator.errors import CATALOGUE, MAX_MESSAGE_CHARS
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live
from tests.orchestrator.door.raw import Answer, post, send
from tests.orchestrator.gateway.calls import INSIDE

CHAT = "/v1/chat/completions"
ARM = FakeArm("small", task="chat", energy_j=0.1)
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
# What is sent and must not come back.
SECRET = "sesame-4711"


def refused(answer: Answer, reason: str) -> dict[str, Any]:
    """The error of a refusal, which must be of this reason and be told as every refusal is told."""
    surface = CATALOGUE[reason]
    assert answer.status == surface.http_status, (answer.status, answer.body)
    error: dict[str, Any] = answer.json["error"]
    assert error["code"] == surface.http_code, error
    assert error.keys() >= {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) <= MAX_MESSAGE_CHARS
    assert not INSIDE.search(error["message"])
    assert SECRET.encode() not in answer.body
    return error


async def still_works(live: Live) -> None:
    async with live.node(name="good", arms=[ARM], behaviour=speaks("fine")):
        assert (await post(live, CHAT, HELLO)).status == 200


def said(**fields: Any) -> bytes:
    return json.dumps(HELLO | fields).encode()


TOO_DEEP = b'{"model":"auto","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "MALFORMED_MESSAGE"),
        (b"[]", "MALFORMED_MESSAGE"),
        (b'{"model": "sesame-4711', "MALFORMED_MESSAGE"),
        (b'{"model": "\xff"}', "MALFORMED_MESSAGE"),
        (TOO_DEEP, "MALFORMED_MESSAGE"),
        (b'{"model": "auto", "model": "sesame-4711"}', "DUPLICATE_KEY"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "INVALID_TEXT"),
        (said(frequency_penalty=float("nan")), "MALFORMED_MESSAGE"),
        (said(temperature=float("inf")), "FIELD_OUT_OF_RANGE"),
        (said().replace(b'"auto"', b'"auto", "user_weight": 1e999'), "MALFORMED_MESSAGE"),
        (said(messages=[]), "FIELD_REQUIRED"),
        (said(messages="sesame-4711"), "FIELD_OUT_OF_RANGE"),
        (said(messages=[{"content": "x"}]), "FIELD_REQUIRED"),
        (said(messages=[{"role": "sesame-4711", "content": "x"}]), "FIELD_OUT_OF_RANGE"),
        (said(messages=[{"role": "user", "content": ""}]), "INVALID_TEXT"),
        (said(messages=[{"role": "user", "content": 7}]), "FIELD_OUT_OF_RANGE"),
        (said(messages=["sesame-4711"]), "FIELD_OUT_OF_RANGE"),
        (said(max_tokens=-1), "FIELD_OUT_OF_RANGE"),
        (said(max_tokens=2**63), "FIELD_OUT_OF_RANGE"),
        (said(max_tokens="7"), "FIELD_OUT_OF_RANGE"),
        (said(max_tokens=True), "FIELD_OUT_OF_RANGE"),
        (said(seed=-1), "FIELD_OUT_OF_RANGE"),
        (said(seed=2**63), "FIELD_OUT_OF_RANGE"),
        (said(temperature=2.5), "FIELD_OUT_OF_RANGE"),
        (said(top_p=-0.5), "FIELD_OUT_OF_RANGE"),
        (said(stop=["x"] * 10_000), "FIELD_OUT_OF_RANGE"),
        (said(stream="yes"), "FIELD_OUT_OF_RANGE"),
        (said(n=-1), "FIELD_OUT_OF_RANGE"),
        (said(model="../sesame-4711"), "EXPERT_NOT_FOUND"),
        (said(model="auto:sesame-4711"), "FIELD_OUT_OF_RANGE"),
        (said(model="auto@sesame-4711"), "FIELD_OUT_OF_RANGE"),
        (said(model=7), "FIELD_OUT_OF_RANGE"),
        (said(fusion={"mode": "sesame-4711"}), "FIELD_OUT_OF_RANGE"),
        (said(fusion={"sesame-4711": 1}), "FIELD_OUT_OF_RANGE"),
        (said(fusion={"mode": "token"}), "FIELD_OUT_OF_RANGE"),
        (said(allowed_nodes=["../sesame-4711"]), "NAME_INVALID"),
        (said(allowed_nodes=["nowhere"]), "CAPABILITY_MISSING"),
        (said(required_tags=["private"]), "CAPABILITY_MISSING"),
        (said(task="sesame-4711"), "TASK_NOT_FOUND"),
        (said(budget=7), "FIELD_OUT_OF_RANGE"),
        (said(budget={"sesame-4711": 1}), "FIELD_OUT_OF_RANGE"),
        (said(budget={"profile": "sesame-4711"}), "FIELD_OUT_OF_RANGE"),
        (said(budget={"max_energy_j": float("nan")}), "BUDGET_NOT_FINITE"),
        (said(budget={"max_energy_j": float("inf")}), "BUDGET_NOT_FINITE"),
        (said(budget={"max_energy_j": "5"}), "BUDGET_NOT_FINITE"),
        (said(budget={"max_energy_j": True}), "BUDGET_NOT_FINITE"),
        (said(budget={"max_energy_j": -1}), "BUDGET_OUT_OF_RANGE"),
        (said(budget={"max_energy_j": -0.0}), "BUDGET_OUT_OF_RANGE"),
        (said(budget={"max_energy_j": 1e308}), "BUDGET_OUT_OF_RANGE"),
        (said(budget={"max_energy_j": 10**400}), "BUDGET_OUT_OF_RANGE"),
        (said(budget={"max_latency_ms": -1}), "BUDGET_OUT_OF_RANGE"),
        (said(budget={"max_energy_j": 1e-9}), "BUDGET_INFEASIBLE"),
    ],
)
async def test_a_body_that_is_wrong(live: Live, body: bytes, reason: str) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        refused(await post(live, CHAT, body), reason)
    await still_works(live)


# Each alone: the door reads how a text is to be generated only where something of it is said.
WRONG = {
    "max_completion_tokens": SECRET,
    "max_tokens": SECRET,
    "temperature": SECRET,
    "top_p": SECRET,
    "seed": SECRET,
    "stop": 7,
    "tools": SECRET,
    "tool_choice": 7,
    "response_format": SECRET,
    "logprobs": SECRET,
    "top_logprobs": SECRET,
}


WRONG_SELDOM = {
    "allowed_nodes": 7,
    "budget": SECRET,
    "explain": SECRET,
    "fusion": SECRET,
    "n": SECRET,
    "plugins": SECRET,
    "required_tags": 7,
    "stream_options": SECRET,
    "task": 7,
    "user": 7,
    "best_of": SECRET,
}


async def test_what_few_requests_say_is_read_where_it_is_said_alone(live: Live) -> None:
    assert WRONG_SELDOM.keys() | set(asking.NOT_CARRIED) == asking.SELDOM
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        for name, value in WRONG_SELDOM.items():
            error = refused(await post(live, CHAT, said(**{name: value})), "FIELD_OUT_OF_RANGE")
            assert error["param"] == name
        for name in asking.NOT_CARRIED:
            error = refused(await post(live, CHAT, said(**{name: SECRET})), "CAPABILITY_MISSING")
            assert error["param"] == name


def test_every_header_that_is_read_for_what_is_asked_counts_as_such() -> None:
    read = {*allowance.HEADERS, *asking.NAME_HEADERS.values(), *ID_HEADERS}
    head = Head([(name.encode(), b"x") for name in (*read, "host", "content-type", "x-other")])
    assert head.asking.keys() == read


@pytest.mark.parametrize("extra", [b'"name":NaN', b'"tool_calls":[{"id":Infinity}]', b'"tool_call_id":-1e999'])
async def test_a_number_that_is_none_is_refused_wherever_it_stands_in_a_message(live: Live, extra: bytes) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        body = b'{"model":"auto","messages":[{"role":"user","content":"x",' + extra + b"}]}"
        refused(await post(live, CHAT, body), "MALFORMED_MESSAGE")
        refused(await post(live, CHAT, said(tools=[float("nan")])), "MALFORMED_MESSAGE")


async def test_every_way_of_generating_is_read_where_it_is_said_alone(live: Live) -> None:
    assert WRONG.keys() == asking.PARAMETERS
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        for name, value in WRONG.items():
            error = refused(await post(live, CHAT, said(**{name: value})), "FIELD_OUT_OF_RANGE")
            assert error["param"] == name
    await still_works(live)


@pytest.mark.parametrize("name", [*asking.NOT_CARRIED, "best_of"])
async def test_what_the_wire_does_not_carry_is_refused_and_not_left_out(live: Live, name: str) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        answer = await post(live, CHAT, said(**{name: 7}))
    assert answer.status == 400
    assert answer.json["error"]["param"] == name


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("x-edgewise-max-energy-j", "nan", "BUDGET_NOT_FINITE"),
        ("x-edgewise-max-energy-j", "1_0", "BUDGET_NOT_FINITE"),
        ("x-edgewise-max-energy-j", "-1", "BUDGET_OUT_OF_RANGE"),
        ("x-edgewise-max-latency-ms", "1e999", "BUDGET_NOT_FINITE"),
        ("x-slo-ttft-ms", "sesame-4711", "BUDGET_NOT_FINITE"),
        ("x-litellm-timeout", "-1", "BUDGET_OUT_OF_RANGE"),
        ("x-edgewise-profile", "sesame-4711", "FIELD_OUT_OF_RANGE"),
        ("x-edgewise-on-infeasible", "sesame-4711", "FIELD_OUT_OF_RANGE"),
        ("x-edgewise-request-id", "' OR 1=1 --", "NAME_INVALID"),
        ("content-type", "text/plain", "MEDIA_TYPE_NOT_ALLOWED"),
        ("content-encoding", "gzip", "MEDIA_TYPE_NOT_ALLOWED"),
    ],
)
async def test_a_header_that_is_wrong(live: Live, header: str, value: str, reason: str) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        refused(await post(live, CHAT, HELLO, **{header: value}), reason)


async def test_a_body_that_is_too_large_is_not_read(live: Live) -> None:
    told = {"content-type": "application/json", "content-length": str(100_000_000)}
    answer = await send(live, "POST", CHAT, told, b"{")
    assert refused(answer, "BODY_TOO_LARGE")["message"].startswith("The body may have at most 4194304")
    chunked = {"content-type": "application/json", "transfer-encoding": "chunked"}
    part = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    refused(await send(live, "POST", CHAT, chunked, part * 5), "BODY_TOO_LARGE")
    await still_works(live)


async def test_a_body_that_does_not_come_is_given_up(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_S", 0.1)
    told = {"content-type": "application/json", "content-length": "1000"}
    refused(await send(live, "POST", CHAT, told, b"{"), "BODY_TOO_SLOW")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_another_verb(live: Live, verb: str) -> None:
    answer = await send(live, verb, CHAT, {}, b"")
    refused(answer, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "POST"


async def test_unknown_fields_are_ignored_on_openais_paths(live: Live) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        answer = await post(live, CHAT, HELLO | {"store": True, "user": "me", "logit_bias": None})
    assert answer.status == 200


async def test_a_prompt_beyond_every_context(live: Live) -> None:
    async with live.node(arms=[FakeArm("small", task="chat", text={"context_tokens": 32})], behaviour=speaks("x")):
        error = refused(
            await post(live, CHAT, said(messages=[{"role": "user", "content": "word " * 200}])), "PROMPT_TOO_LONG"
        )
        assert error["param"] == "messages"
        assert (await post(live, CHAT, HELLO)).status == 200


async def test_many_broken_requests_leave_nothing_behind(live: Live) -> None:
    async with live.node(arms=[ARM], behaviour=speaks("x")):
        answers = await asyncio.gather(*(post(live, CHAT, b'{"a":' * 50) for _ in range(50)))
        assert {answer.status for answer in answers} == {400}
    assert live.gateway.service.admission.running == 0
