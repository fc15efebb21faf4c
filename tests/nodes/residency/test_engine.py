"""Experts that take turns in memory, with an engine that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodes.agent.parts import build_parts
from nodes.arms import ArmSpec, Residency, TextTraits
from nodes.config import parse_config
from nodes.energy.contract import Meter
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.profile import load_profile
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.guests import EngineWithGuests
from nodes.errors import ConfigError, DeadlinePassed, EngineBusy, EngineError
from nodes.residency import engine as residency
from nodes.residency.engine import ResidentEngine


class PlayedEngine:
    """Loads in `load_s`, runs until `go` is set."""

    def __init__(self) -> None:
        self.events = EngineEvents()
        self.state, self.restarts, self.running, self.queued = EngineState.READY, 0, 0, 0
        self.load_s, self.fails = 0.0, ""
        self.loaded: set[str] = set()
        self.told: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        assert not arms

    async def add(self, arm: ArmSpec) -> None:
        await asyncio.sleep(self.load_s)
        if self.fails:
            raise EngineError(self.fails)
        self.loaded.add(arm.key)
        self.told.append(f"+{arm.expert}")

    async def unload_arm(self, key: str) -> None:
        assert not self.running
        self.loaded.remove(key)
        self.told.append(f"-{key.partition(':')[0]}")

    def load_progress(self, key: str) -> float | None:
        return 0.5

    async def infer(self, job: Job) -> JobResult:
        assert job.arm in self.loaded
        self.running += 1
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        assert job.arm in self.loaded
        return JobResult({}, 0.0, 1.0)

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        assert job.arm in self.loaded
        yield TextPiece("x")
        yield TextEnd("stop", 1, 1, 0.0, 1.0)

    async def close(self) -> None:
        self.state = EngineState.CLOSED


def an_arm(expert: str, size: int = 10) -> ArmSpec:
    return ArmSpec(expert, "v", "chat", "played", 1, size, 0.5, 0, text=TextTraits())


@asynccontextmanager
async def house(
    *arms: ArmSpec, budget: int = 20, meter: Meter | None = None, **settings: Any
) -> AsyncIterator[tuple[ResidentEngine, PlayedEngine]]:
    played = PlayedEngine()
    engine = ResidentEngine(played, played, meter=meter or UnmeasuredMeter(), budget_bytes=budget, **settings)
    try:
        await engine.load(arms or [an_arm(name) for name in "abc"])
        yield engine, played
    finally:
        await engine.close()


async def run(engine: ResidentEngine, expert: str, **fields: Any) -> JobResult:
    return await engine.infer(Job(f"{expert}:v", {}, **fields))


async def test_an_expert_is_loaded_when_asked_for_and_the_longest_unused_makes_room() -> None:
    async with house() as (engine, played):
        for expert in "abac":
            await run(engine, expert)
        assert played.told == ["+a", "+b", "-b", "+c"]
        assert engine.residency("b:v").state == "unloaded"
        # The control: where all fit, nobody leaves.
    async with house(budget=30) as (engine, played):
        for expert in "abac":
            await run(engine, expert)
        assert played.told == ["+a", "+b", "+c"]


async def test_a_load_is_measured_told_and_charged_to_the_work_that_caused_it() -> None:
    profile = load_profile("laptop-cpu")
    async with house(meter=ModelledMeter(profile)) as (engine, played):
        played.load_s = 0.05
        told: list[Residency] = []
        engine.on_change = lambda _arm, how: told.append(how)
        first, second = await run(engine, "a"), await run(engine, "a")
        assert first.load is not None
        assert 50.0 <= first.load.ms < 1000.0
        assert second.load is None
        assert [how.state for how in told] == ["loading", "loaded"]
        assert told[0].progress_fraction == 0.5
        assert (told[1].load_ms, told[1].load_j) == (first.load.ms, first.load.energy.energy_j)


async def test_texts_say_it_in_their_end() -> None:
    async with house() as (engine, _):
        async with aclosing(engine.generate(TextJob("a:v", (("user", "x"),)))) as pieces:
            *_, end = [piece async for piece in pieces]
        assert isinstance(end, TextEnd)
        assert end.load is not None


async def test_what_runs_is_never_unloaded_and_who_waits_for_room_comes_first() -> None:
    async with house(budget=10) as (engine, played):
        await run(engine, "a")
        played.go.clear()
        running = asyncio.ensure_future(run(engine, "a"))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(run(engine, "b"))
        await asyncio.sleep(0.01)
        later = asyncio.ensure_future(run(engine, "a"))
        await asyncio.sleep(0.01)
        assert played.told == ["+a"]
        played.go.set()
        await asyncio.gather(running, waiting, later)
        assert played.told == ["+a", "-a", "+b", "-b", "+a"]


async def test_waiting_for_room_ends_with_the_deadline() -> None:
    async with house(budget=10) as (engine, played):
        await run(engine, "a")
        played.go.clear()
        running = asyncio.ensure_future(run(engine, "a"))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlinePassed):
            await run(engine, "b", start_by_s=loop.time() + 0.02)
        played.go.set()
        await running
        assert await run(engine, "b")


async def test_a_load_goes_on_where_its_cause_is_gone_and_nobody_holds_the_expert_then() -> None:
    async with house(budget=10) as (engine, played):
        played.load_s = 0.05
        asking = asyncio.ensure_future(run(engine, "a"))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await run(engine, "b")
        assert played.told == ["+a", "-a", "+b"]


async def test_many_who_want_the_same_expert_share_one_load() -> None:
    async with house() as (engine, played):
        played.load_s = 0.02
        results = await asyncio.gather(*(run(engine, "a") for _ in range(5)))
        assert played.told == ["+a"]
        assert sum(result.load is not None for result in results) == 1


async def test_pins_keep_and_what_does_not_fit_beside_them_is_refused() -> None:
    async with house(budget=10) as (engine, played):
        await engine.manage("a:v", "pin")
        assert engine.residency("a:v").pinned
        with pytest.raises(EngineBusy, match="pinned"):
            await run(engine, "b")
        await engine.manage("b:v", "load")
        assert "pinned" in engine.residency("b:v").problem
        await engine.manage("a:v", "unpin")
        await run(engine, "b")
        assert played.told == ["+a", "-a", "+b"]


async def test_unloading_waits_for_nobody() -> None:
    async with house() as (engine, played):
        await run(engine, "a")
        played.go.clear()
        running = asyncio.ensure_future(run(engine, "a"))
        await asyncio.sleep(0)
        await engine.manage("a:v", "unload")
        assert "at work" in engine.residency("a:v").problem
        played.go.set()
        await running
        await engine.manage("a:v", "unload")
        assert engine.residency("a:v") == Residency("unloaded", load_ms=engine.residency("a:v").load_ms)


async def test_idle_experts_leave_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "TICK_S", 0.01)
    async with house(ttl_s=0.05) as (engine, played):
        await run(engine, "a")
        await engine.manage("b:v", "load", ttl_s=60.0)
        async with asyncio.timeout(5.0):
            while "a:v" in played.loaded:  # noqa: ASYNC110 (a timer decides)
                await asyncio.sleep(0.01)
        assert played.loaded == {"b:v"}


async def test_a_load_that_fails_is_told_and_tried_again() -> None:
    async with house() as (engine, played):
        played.fails = "the file is damaged"
        with pytest.raises(EngineError, match="damaged"):
            await run(engine, "a")
        assert engine.residency("a:v").problem == "the file is damaged"
        assert engine.residency("a:v").state == "unloaded"
        played.fails = ""
        await run(engine, "a")
        assert engine.residency("a:v").problem == ""


async def test_an_expert_larger_than_the_budget_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="20 bytes are less than big 21"):
        async with house(an_arm("big", 21)):
            pass


async def test_a_further_arm_is_loaded_measured_and_leaves_as_any_other() -> None:
    async with house(an_arm("a"), an_arm("b")) as (engine, played):
        await run(engine, "a")
        await engine.add(an_arm("c"))
        assert engine.residency("c:v").state == "loaded"
        for expert in "ba":
            await run(engine, expert)
        assert played.told == ["+a", "+c", "-a", "+b", "-c", "+a"]
        with pytest.raises(EngineError, match="the memory budget is 20"):
            await engine.add(an_arm("huge", 21))
        with pytest.raises(EngineError, match="no engine has loaded"):
            await run(engine, "huge")


async def test_a_node_that_takes_models_keeps_the_budget_of_its_own(tmp_path: Path) -> None:
    given = {"gateway": "127.0.0.1:1", "profile": "laptop-cpu", "model_store": tmp_path}
    parts = build_parts(parse_config({**given, "memory_budget_bytes": "1GiB"}))
    assert isinstance(parts.engine, EngineWithGuests)
    assert parts.resident is parts.engine.own
    told: list[str] = []
    parts.engine.events.on_arms_back = told.extend
    parts.engine.own.events.on_arms_back(["a:v"])
    assert told == ["a:v"]
    # The controls: with nobody else's models it is the whole engine, and without a budget there is none.
    alone = build_parts(parse_config({**given, "memory_budget_bytes": "1GiB", "accept_models": "never"}))
    assert alone.resident is alone.engine
    assert build_parts(parse_config(given)).resident is None
