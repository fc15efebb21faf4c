"""Texts that experts elsewhere write too, in the engine's own process: waiting is no hang, and everything is let go."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodes.engines import child
from nodes.engines.child import Limits
from nodes.engines.contract import TextEnd, TextJob, TextPiece, Turn, Turns
from nodes.engines.onnx_lm import SERVE, OnnxTextEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import DeadlinePassed, EngineBusy, InputInvalid
from nodes.inventory import load_inventory

EXPERT, MIXTURE = "skills-dates:fp16", "skills-mixture:token"
STALL_S = 0.6


@pytest.fixture
async def engine() -> AsyncIterator[OnnxTextEngine]:
    engine = OnnxTextEngine(WorkerCommand(Path(sys.executable), 1, SERVE), Limits(stall_timeout_s=STALL_S))
    await engine.load(load_inventory(None, ("skills-dates", "skills-mixture")).arms)
    yield engine
    await engine.close()


def shared(arm: str = EXPERT, *, left_s: float = 30.0, tokens: int = 40) -> TextJob:
    until_s = time.monotonic() + left_s
    question = (("user", "What day comes 3 days after Monday?"),)
    return TextJob(
        arm,
        question,
        max_tokens=tokens,
        min_tokens=tokens,
        temperature=1.0,
        seed=3,
        start_by_s=until_s,
        turns=Turns(),
    )


def put(job: TextJob, turn: Turn) -> None:
    assert job.turns is not None
    job.turns.put(turn)


async def test_waiting_for_a_turn_is_no_hang_and_a_late_turn_is_none(engine: OnnxTextEngine) -> None:
    job, pid = shared(tokens=4), engine.pid
    put(job, Turn(count=2))
    stream = engine.generate(job)
    said = [await anext(stream) for _ in range(2)]
    assert all(isinstance(piece, TextPiece) and len(piece.token_ids) == 1 for piece in said)
    # The one slot is free for others meanwhile, and the watch sees nothing that hangs.
    alone = [item async for item in engine.generate(TextJob(EXPERT, job.messages, max_tokens=3))]
    assert isinstance(alone[-1], TextEnd)
    await asyncio.sleep(2.5 * STALL_S)
    put(job, Turn((5,), count=1))
    rest = [item async for item in stream]
    assert isinstance(rest[-1], TextEnd)
    assert (rest[-1].finish, rest[-1].completion_tokens) == ("length", 4)
    assert rest[-1].compute_ms < 1e3 * STALL_S, "waiting is not computing"
    put(job, Turn(last=True))
    await asyncio.sleep(2.5 * STALL_S)
    assert (engine.pid, engine.restarts) == (pid, 0)


async def test_time_ends_a_text_whose_turn_never_comes(engine: OnnxTextEngine) -> None:
    with pytest.raises(DeadlinePassed):
        _ = [item async for item in engine.generate(shared(left_s=0.2))]
    # A mixture writes alone.
    with pytest.raises(InputInvalid):
        _ = [item async for item in engine.generate(shared(MIXTURE))]


async def test_there_are_so_many_at_a_time_and_those_that_leave_make_room(
    engine: OnnxTextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MOST_SHARED", 1)
    job = shared()
    put(job, Turn(count=1))
    first = engine.generate(job)
    await anext(first)
    with pytest.raises(EngineBusy):
        await anext(engine.generate(shared()))
    await first.aclose()
    async with asyncio.timeout(10):
        while engine._child._shared:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    again = shared()
    put(again, Turn(count=1))
    assert isinstance(await anext(engine.generate(again)), TextPiece)
