"""The real text engine with the experts that ship: batches, seeds, ends, death. Every wait has a time limit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from nodes.arms import TextCost
from nodes.engines import onnx_lm
from nodes.engines.child import Limits
from nodes.engines.contract import EngineState, Job, TextEnd, TextJob, TextPiece
from nodes.engines.crashes import CrashPolicy
from nodes.engines.onnx_lm import SERVE, OnnxTextEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import DeadlinePassed, EngineBusy, EngineDied, EngineError, InputInvalid
from nodes.inventory import load_inventory
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.texts import unpacked

EXPERT, GENERAL, MIXTURE = "skills-dates", "skills-general", "skills-mixture"
SLOTS = 3


def key(expert: str) -> str:
    return f"{expert}:{'token' if expert == MIXTURE else 'fp16'}"


@pytest.fixture
async def engine() -> AsyncIterator[OnnxTextEngine]:
    limits = Limits(queue_limit=2, crashes=CrashPolicy(first_delay_s=0.01, delay_cap_s=0.05))
    engine = OnnxTextEngine(WorkerCommand(Path(sys.executable), SLOTS, SERVE), limits)
    await engine.load(load_inventory(None, (EXPERT, GENERAL, MIXTURE)).arms)
    yield engine
    await engine.close()


def ask(question: str, expert: str = EXPERT, **settings: Any) -> TextJob:
    return dataclasses.replace(TextJob(key(expert), (("user", question),)), **settings)


async def write(engine: OnnxTextEngine, job: TextJob) -> tuple[str, list[int], TextEnd]:
    async with asyncio.timeout(30):
        items = [item async for item in engine.generate(job)]
    *pieces, end = items
    assert isinstance(end, TextEnd)
    assert all(isinstance(piece, TextPiece) for piece in pieces)
    ids = [token for piece in pieces for token in piece.token_ids]  # type: ignore[union-attr]
    return "".join(piece.text for piece in pieces), ids, end  # type: ignore[union-attr]


async def begun(engine: OnnxTextEngine, job: TextJob) -> asyncio.Task[tuple[str, list[int], TextEnd]]:
    started = asyncio.Event()
    task = asyncio.create_task(write(engine, dataclasses.replace(job, on_start=started.set)))
    async with asyncio.timeout(10):
        await started.wait()
    return task


ENDLESS: dict[str, Any] = {"max_tokens": 480, "min_tokens": 480}


async def test_answers_are_those_of_the_evidence(engine: OnnxTextEngine) -> None:
    catalog = load_text_catalog()
    prompts = unpacked(catalog.reference["prompts"], catalog.reference["prompt_ends"])[:9]
    for name in (EXPERT, MIXTURE):
        card = next(card for card in catalog.experts if card.name == name)
        evidence = catalog.evidence_tensors(card)
        given = unpacked(evidence["given"], evidence["given_ends"])
        for i, prompt in enumerate(prompts):
            text, _, end = await write(engine, ask(prompt, name, max_tokens=24))
            assert text == given[i]
            assert end.completion_tokens == evidence["completion_tokens"][i]
            assert end.margin_fraction == pytest.approx(evidence["margin"][i], abs=1e-3)


async def test_says_what_it_took(engine: OnnxTextEngine) -> None:
    _, ids, end = await write(engine, ask("What is 7 hours in minutes?", max_tokens=5, min_tokens=5))
    assert (end.finish, end.completion_tokens, len(ids)) == ("length", 5, 5)
    assert end.prompt_tokens > 5
    assert end.macs > 400_000 * (end.prompt_tokens + 4)
    assert end.first_token_ms is not None
    assert 0.0 < end.first_token_ms <= end.compute_ms
    assert end.margin_fraction is not None
    assert 0.0 <= end.margin_fraction <= 1.0


async def test_tells_how_probable_tokens_were_where_asked(engine: OnnxTextEngine) -> None:
    for expert in (EXPERT, MIXTURE):
        job = ask("What day comes 3 days after Monday?", expert, top_logprobs=3)
        pieces = [item async for item in engine.generate(job) if isinstance(item, TextPiece)]
        told = [one for piece in pieces for one in piece.logprobs]
        assert "".join(one["token"] for one in told) == "".join(piece.text for piece in pieces)
        assert len(told) == sum(len(piece.token_ids) for piece in pieces)
        for one in told:
            tops = [top["logprob"] for top in one["top_logprobs"]]
            assert len(tops) == 3
            assert tops == sorted(tops, reverse=True)
            # Greedy: what was written was the most probable.
            assert one["logprob"] == tops[0]
            assert sum(map(math.exp, tops)) <= 1.0 + 1e-9
    unasked = [item async for item in engine.generate(ask("What day comes 3 days after Monday?"))]
    assert not any(item.logprobs for item in unasked if isinstance(item, TextPiece))


async def test_together_the_same_greedy_texts_as_alone(engine: OnnxTextEngine) -> None:
    questions = ["What is 3 weeks in days?", "Find the month 2 months after May.", "Give 5 km in m.", "I need x."]
    jobs = [
        ask(question, expert, max_tokens=6 + i) for i, question in enumerate(questions) for expert in (EXPERT, GENERAL)
    ]
    alone = [await write(engine, job) for job in jobs]
    together = []
    for start in range(0, len(jobs), SLOTS):
        together += await asyncio.gather(*(write(engine, job) for job in jobs[start : start + SLOTS]))
    assert [ids for _, ids, _ in together] == [ids for _, ids, _ in alone]


async def test_texts_join_one_that_is_on_its_way(engine: OnnxTextEngine) -> None:
    long = await begun(engine, ask("Give 5 km in m.", **ENDLESS))
    for _ in range(3):
        await write(engine, ask("What is 3 weeks in days?", max_tokens=4))
        assert not long.done(), "a short text does not wait for a long one"
    _, _, end = await long
    assert end.completion_tokens == 480


async def test_the_same_seed_draws_the_same_text(engine: OnnxTextEngine) -> None:
    hot: dict[str, Any] = {"max_tokens": 12, "min_tokens": 12, "temperature": 1.5, "top_p": 0.95}
    for expert in (GENERAL, MIXTURE):
        first, second, other = [
            (await write(engine, ask("Give 5 km in m.", expert, seed=seed, **hot)))[1] for seed in (7, 7, 8)
        ]
        assert first == second
        assert first != other
    beside = await begun(engine, ask("What is 3 weeks in days?", GENERAL, **ENDLESS))
    _, ids, _ = await write(engine, ask("Give 5 km in m.", MIXTURE, seed=7, **hot))
    assert ids == first, "whoever writes beside it changes nothing"
    beside.cancel()


async def test_stop_strings_and_budgets_end_a_text(engine: OnnxTextEngine) -> None:
    question = "What is 3 weeks in days?"
    whole, _, _ = await write(engine, ask(question, max_tokens=12))
    assert len(whole) >= 2
    text, _, end = await write(engine, ask(question, stop=(whole[1],)))
    assert (text, end.finish) == (whole[: whole.index(whole[1])], "stop")
    cost = TextCost(0.0, 0.0, 0.0, overhead_j=1.0, prefill_j_per_token=0.0, decode_j_per_token=1.0)
    text, _, end = await write(engine, ask(question, energy_limit_j=4.5, cost=cost, **ENDLESS))
    assert (end.finish, end.completion_tokens) == ("budget", 3)
    text, _, end = await write(engine, ask(question, energy_limit_j=0.5, cost=cost, **ENDLESS))
    assert (text, end.finish, end.completion_tokens, end.macs) == ("", "budget", 0, 0)


async def test_leaving_frees_the_slot_within_100_ms(engine: OnnxTextEngine) -> None:
    async with aclosing(engine.generate(ask("Give 5 km in m.", **ENDLESS))) as pieces:
        await anext(pieces)
    left_s = time.monotonic()
    while engine.running:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert time.monotonic() - left_s < 0.1


async def test_what_waits_can_leave_and_too_much_is_refused(engine: OnnxTextEngine) -> None:
    running = [await begun(engine, ask("Give 5 km in m.", **ENDLESS)) for _ in range(SLOTS)]
    waiting = [asyncio.create_task(write(engine, ask("x"))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusy):
        await write(engine, ask("x"))
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert engine.queued == 1
    for task in running:
        task.cancel()
    await waiting[1]


async def test_work_that_is_late_or_unfit_is_refused(engine: OnnxTextEngine) -> None:
    with pytest.raises(DeadlinePassed):
        await write(engine, ask("x", start_by_s=time.monotonic() - 1))
    with pytest.raises(InputInvalid):
        await write(engine, TextJob(key(EXPERT), (("system", "x"),)))
    with pytest.raises(InputInvalid):
        await write(engine, ask("9 " * 600))
    with pytest.raises(EngineError):
        await engine.infer(Job(key(EXPERT), {}))
    assert engine.running == 0
    text, _, _ = await write(engine, ask("Give 5 km in m."))
    assert text


async def test_kill_9_in_the_middle_of_a_text_fails_it_at_once_and_the_engine_comes_back(
    engine: OnnxTextEngine,
) -> None:
    running = await begun(engine, ask("Give 5 km in m.", **ENDLESS))
    assert engine.pid is not None
    killed_s = time.monotonic()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        await running
    assert time.monotonic() - killed_s < 1.0
    async with asyncio.timeout(20):
        while engine.state is not EngineState.READY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert engine.restarts == 1
    assert (await write(engine, ask("Give 5 km in m.")))[0]


async def test_a_file_that_is_not_what_the_card_says_does_not_load() -> None:
    arms = [dataclasses.replace(arm, model_digest="0" * 64) for arm in load_inventory(None, (EXPERT,)).arms]
    engine = OnnxTextEngine(WorkerCommand(Path(sys.executable), 1, SERVE))
    with pytest.raises(EngineError, match="digest"):
        await engine.load(arms)
    await engine.close()


async def test_every_step_of_a_batch_of_embeddings_shows_that_it_goes_on(engine: OnnxTextEngine) -> None:
    texts = tuple(("user", f"Sort the words pear, apple, fig and {number}. " * 9) for number in range(6))
    job = TextJob(key(GENERAL), texts, embed=True)
    async with asyncio.timeout(30), aclosing(engine._child.stream(job, {}, onnx_lm._texts(job))) as stream:
        frames = [frame async for frame, _ in stream]
    assert [frame.op for frame in frames] == ["piece"] * (len(frames) - 1) + ["end"]
    calls = frames[-1].header["calls"]
    assert calls == len(frames) - 1 > 2, "what shows nothing for long is taken for hung"
    assert [bool(frame.tensors()) for frame in frames[:-1]] == [False] * (calls - 1) + [True]
    text, ids, _ = await write(engine, job)
    assert (len(json.loads(text)), ids) == (len(texts), [])
