"""The engine that asks an OpenAI-compatible server, against one that a test plays."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import numpy as np
import pytest

from nodes.arms import TextCost
from nodes.engines.contract import EngineState, TextJob, TextPiece
from nodes.engines.remote.engine import RemoteEngine
from nodes.engines.remote.offer import RemoteModel, remote_inventory
from nodes.engines.remote.server import Address, Server
from nodes.errors import (
    DeadlinePassed,
    EngineBusy,
    EngineDied,
    EngineError,
    InputInvalid,
    NodeError,
)
from tests.fakes.live import until
from tests.fakes.openai_server import Script, openai_server
from tests.nodes.engines.remote.asking import ARM, MODEL, answer, engine_for, job


async def test_a_text_comes_in_pieces_with_its_tokens_times_and_margin() -> None:
    async with openai_server(Script(token_s=0.01)) as server, engine_for(server) as engine:
        started: list[bool] = []
        pieces, end = await answer(engine, job(max_tokens=9, on_start=lambda: started.append(True)))
        assert pieces == ["Hel", "lo", "!"]
        assert (end.finish, end.prompt_tokens, end.completion_tokens) == ("stop", 2, 3)
        assert end.margin_fraction == pytest.approx(0.8)
        assert end.first_token_ms is not None
        assert 10.0 <= end.first_token_ms < end.compute_ms
        assert started == [True]
        assert engine.running == engine.queued == 0


async def test_what_is_asked_reaches_the_server_as_it_was_said() -> None:
    tool = [{"type": "function", "function": {"name": "look"}}]
    part = {"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    asked = TextJob(
        ARM,
        (("system", "be brief"), ("user", "hello")),
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        seed=3,
        stop=("\n",),
        extras=("", json.dumps(part)),
        tools_json=json.dumps(tool),
        tool_choice_json='"auto"',
        response_format_json='{"type":"json_object"}',
    )
    async with openai_server() as server, engine_for(server) as engine:
        await answer(engine, asked)
        (body,) = server.asked
    assert body["model"] == "tiny:1b"
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", **part}]
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["seed"]) == (7, 0.5, 0.25, 3)
    assert (body["stop"], body["tools"], body["tool_choice"]) == (["\n"], tool, "auto")
    assert body["response_format"] == {"type": "json_object"}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)


async def test_the_length_ends_it_and_joules_that_run_short_say_so() -> None:
    cost = TextCost(1.0, 1.0, 1.0, overhead_j=0.1, decode_j_per_token=0.1)
    async with openai_server() as server, engine_for(server) as engine:
        assert (await answer(engine, job(max_tokens=2)))[1].finish == "length"
        pieces, end = await answer(engine, job(max_tokens=9, energy_limit_j=0.31, cost=cost))
        assert (pieces, end.finish) == (["Hel", "lo"], "budget")
        assert server.asked[-1]["max_tokens"] == 2


async def test_probabilities_are_passed_on_as_many_as_were_asked_for() -> None:
    async with openai_server() as server, engine_for(server) as engine:
        for whole in (False, True):
            asked = job(max_tokens=9, top_logprobs=1, whole=whole)
            pieces = [item async for item in engine.generate(asked) if isinstance(item, TextPiece)]
            told = [one for piece in pieces for one in piece.logprobs]
            assert [one["token"] for one in told] == ["Hel", "lo", "!"]
            assert all(len(one["top_logprobs"]) == 1 for one in told)
        unasked = [item async for item in engine.generate(job()) if isinstance(item, TextPiece)]
    assert not any(piece.logprobs for piece in unasked)
    assert [body["top_logprobs"] for body in server.asked] == [2, 2, 2]


def vectors(text: str) -> list[list[float]]:
    return [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in json.loads(text)]


async def test_embeddings_come_as_vectors_in_the_order_of_the_texts() -> None:
    asked = TextJob(ARM, (("user", "hello you"), ("user", "hi")), embed=True)
    async with openai_server() as server, engine_for(server) as engine:
        (text,), end = await answer(engine, asked)
        (body,) = server.asked
        server.script.embeddings = lambda _body: {
            "data": [
                {"index": n, "embedding": base64.b64encode(np.array([n, 1], "<f4").tobytes()).decode()} for n in (0, 1)
            ]
        }
        (coded,), _ = await answer(engine, asked)
    assert vectors(text) == [[9.0, 0.0], [2.0, 1.0]]
    assert vectors(coded) == [[0.0, 1.0], [1.0, 1.0]]
    assert (end.finish, end.prompt_tokens, end.completion_tokens) == ("stop", 3, 0)
    assert body == {"model": "tiny:1b", "input": ["hello you", "hi"]}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"data": [{"embedding": [1.0]}]},
        {"data": [{"embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]},
        {"data": [{"embedding": []}, {"index": 1, "embedding": []}]},
        {"data": [{"embedding": ["x"]}, {"index": 1, "embedding": [1.0]}]},
        {"data": [{"embedding": [[1.0]]}, {"index": 1, "embedding": [[1.0]]}]},
        {"data": [{"embedding": "%%"}, {"index": 1, "embedding": "%%"}]},
        {"data": [{"embedding": [1e39]}, {"index": 1, "embedding": [1.0]}]},
        {"data": 7},
    ],
)
async def test_embeddings_that_are_none_are_an_error(said: dict[str, Any]) -> None:
    async with openai_server(Script(embeddings=lambda _body: said)) as server, engine_for(server) as engine:
        with pytest.raises(EngineError, match="embeddings"):
            await answer(engine, TextJob(ARM, (("user", "a"), ("user", "b")), embed=True))


@pytest.mark.parametrize(
    ("said", "told"), [(None, None), (0, 0), (1, 1), (99, 2), (-1, None), ("many", None), (True, None)]
)
@pytest.mark.parametrize("whole", [True, False])
async def test_what_the_server_had_kept_is_told_and_never_more_than_the_prompt(
    said: Any, told: int | None, *, whole: bool
) -> None:
    async with openai_server(Script(cached=said)) as server, engine_for(server) as engine:
        _, end = await answer(engine, job("say hello", whole=whole))
    assert (end.prompt_tokens, end.cached_tokens) == (2, told)


@pytest.mark.parametrize("able", [True, False])
async def test_scopes_go_to_servers_that_keep_them_apart(*, able: bool) -> None:
    model = RemoteModel("tiny:1b", capabilities=("cache_salt",) if able else ())
    async with openai_server() as server, engine_for(server, model) as engine:
        await answer(engine, job(scope="s1"))
        await answer(engine, job())
        assert [body.get("cache_salt") for body in server.asked] == ["s1" if able else None, None]


async def test_calls_of_tools_are_put_together() -> None:
    parts = [
        {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    async with openai_server(Script(tool_calls=parts)) as server, engine_for(server) as engine:
        pieces, end = await answer(engine, job())
    assert pieces == []
    function = {"name": "look", "arguments": '{"a":1}'}
    assert json.loads(end.tool_calls_json) == [{"id": "c1", "type": "function", "function": function}]


async def test_a_server_that_does_not_count_is_counted_by_its_pieces() -> None:
    async with openai_server(Script(usage=False)) as server, engine_for(server) as engine:
        assert (await answer(engine, job()))[1].completion_tokens == 3


# ---- failures


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(status=400), InputInvalid),
        (Script(status=422), InputInvalid),
        (Script(status=401), EngineError),
        (Script(status=500), EngineError),
        (Script(status=429), EngineBusy),
        (Script(status=503), EngineBusy),
        (Script(break_after=1), EngineDied),
    ],
)
async def test_what_the_server_does_becomes_an_error_of_ours(script: Script, error: type[NodeError]) -> None:
    async with openai_server(script) as server, engine_for(server) as engine:
        with pytest.raises(error) as caught:
            await answer(engine, job())
        assert type(caught.value) is error
        assert engine.running == 0
        server.script = Script()
        assert (await answer(engine, job()))[0] == ["Hel", "lo", "!"]


async def test_a_server_that_went_away() -> None:
    async with openai_server() as server, engine_for(server) as engine:
        pass
    gone = RemoteEngine(Server(Address(server.url)), {ARM: "tiny:1b"}, concurrency=1, queue_limit=1)
    with pytest.raises(EngineDied):
        await gone.load(remote_inventory([MODEL], "chat").arms)
    await gone.close()
    assert engine.state is EngineState.CLOSED
    with pytest.raises(EngineDied):
        await answer(engine, job())


async def test_a_server_that_goes_and_comes_takes_its_models_along() -> None:
    told: list[str] = []
    inventory = remote_inventory([MODEL, RemoteModel("other")], "chat")
    keys = {ARM: "tiny:1b", "other:remote": "other"}
    async with openai_server(Script(models=("tiny:1b", "other"))) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        engine = RemoteEngine(Server(Address(server.url)), keys, concurrency=1, queue_limit=1, poll_s=0.02)
        engine.events.on_arms_lost = lambda arms: told.extend(f"-{arm}" for arm in arms)
        engine.events.on_arms_back = lambda arms: told.extend(f"+{arm}" for arm in arms)
        await engine.load(inventory.arms)
        server.script.models = ("tiny:1b",)
        await until(lambda: told == ["-other:remote"] and engine.state is EngineState.READY)
        server.script.models = ("tiny:1b", "other")
        await until(lambda: told[1:] == ["+other:remote"])
    await until(lambda: told[2:] == ["-other:remote", f"-{ARM}"] and engine.state is EngineState.RESTARTING)
    async with openai_server(Script(models=("tiny:1b", "other")), port=port):
        await until(lambda: told[4:] == ["+other:remote", f"+{ARM}"])
        assert (await answer(engine, job()))[0] == ["Hel", "lo", "!"]
    await engine.close()


async def test_one_missed_answer_is_no_absence_and_a_busy_server_is_there() -> None:
    """The control: without a second miss nothing is told."""
    script = Script()
    async with openai_server(script) as server:
        engine = RemoteEngine(Server(Address(server.url)), {ARM: "tiny:1b"}, concurrency=1, queue_limit=1, poll_s=0.02)
        told: list[str] = []
        engine.events.on_arms_lost = told.extend
        await engine.load(remote_inventory([MODEL], "chat").arms)
        asked, models = 0, engine._server.models

        async def once_dead_then_busy() -> tuple[str, ...]:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise EngineDied("for a moment")
            if asked == 3:
                raise EngineBusy("much to do")
            return await models()

        engine._server.models = once_dead_then_busy  # type: ignore[method-assign]
        await until(lambda: asked >= 6)
        assert told == []
        await engine.close()


async def test_a_model_that_is_not_there() -> None:
    async with openai_server(Script(models=("other",))) as server:
        with pytest.raises(EngineError, match="has no model"):
            async with engine_for(server):
                pass


async def test_stopping_closes_the_connection_at_once() -> None:
    async with openai_server(Script(hang_after=1)) as server, engine_for(server) as engine:
        stream = engine.generate(job())
        assert isinstance(await anext(stream), TextPiece)
        stopped_s = time.monotonic()
        await stream.aclose()
        async with asyncio.timeout(1.0):
            await server.gone.wait()
        assert server.gone_s - stopped_s <= 0.1
        assert engine.running == 0


async def test_the_queue_is_bounded_and_the_deadline_is_kept() -> None:
    async with openai_server(Script(hang_after=1)) as server, engine_for(server) as engine:
        first = engine.generate(job())
        await anext(first)
        waiting = asyncio.ensure_future(answer(engine, job(start_by_s=time.monotonic())))
        await asyncio.sleep(0)
        with pytest.raises(EngineBusy):
            await answer(engine, job())
        await first.aclose()
        with pytest.raises(DeadlinePassed):
            await waiting
