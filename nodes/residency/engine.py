"""An engine whose experts share a budget of memory: one that is not loaded is loaded when work for it comes.

A load is measured like work: its milliseconds and joules are told to the gateway, which reckons with them as with a
queue. One load at a time; whoever needs the same expert waits for the same load. What runs is never unloaded.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from nodes.arms import ArmSpec, Residency
from nodes.config import NodeConfig
from nodes.energy.contract import Meter
from nodes.engines.contract import (
    Engine,
    EngineEvents,
    EngineState,
    Job,
    JobResult,
    LoadsArms,
    LoadTaken,
    TextEnd,
    TextJob,
    TextPiece,
)
from nodes.errors import ConfigError, DeadlinePassed, EngineBusy, EngineError
from nodes.residency.shelf import Shelf

TICK_S = 1.0
LOADED, LOADING, UNLOADED = "loaded", "loading", "unloaded"
VERBS = ("load", "unload", "pin", "unpin")

Result = TypeVar("Result")

log = structlog.get_logger("nodes.residency")


class ResidentEngine:
    """Puts a budget of memory on an engine.

    Args:
        inner: Runs what is loaded.
        loads: Loads and unloads single arms of it; mostly the same object.
        meter: Says what a load takes.
        budget_bytes: What all loaded experts may take together.
        ttl_s: Idle seconds after which an expert is unloaded.
    """

    def __init__(
        self, inner: Engine, loads: LoadsArms, *, meter: Meter, budget_bytes: int, ttl_s: float = math.inf
    ) -> None:
        self.events = EngineEvents()
        self.on_change: Callable[[str, Residency], None] = lambda _arm, _residency: None
        self._inner, self._loads, self._meter = inner, loads, meter
        self._budget_bytes, self._ttl_s = budget_bytes, ttl_s
        self._arms: dict[str, ArmSpec] = {}
        self._shelf = Shelf(budget_bytes, {})
        self._last: dict[str, LoadTaken] = {}
        self._problems: dict[str, str] = {}
        self._loading = ""
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._room_wanted = False
        self._tasks: set[asyncio.Task[Any]] = set()
        inner.events.on_arms_lost = self._tell_lost
        inner.events.on_arms_back = self._tell_back

    def _tell_lost(self, arms: Sequence[str]) -> None:
        self.events.on_arms_lost(arms)

    def _tell_back(self, arms: Sequence[str]) -> None:
        self.events.on_arms_back(arms)

    @property
    def state(self) -> EngineState:
        """See `Engine`."""
        return self._inner.state

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return self._inner.restarts

    @property
    def running(self) -> int:
        """See `Engine`."""
        return self._inner.running

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return self._inner.queued

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`: nothing is loaded yet but the engine itself.

        Raises:
            ConfigError: if an expert alone is larger than the budget.
        """
        large = [f"{arm.expert} {arm.memory_bytes}" for arm in arms if arm.memory_bytes > self._budget_bytes]
        if large:
            raise ConfigError(
                f"--memory-budget: {self._budget_bytes} bytes are less than {', '.join(large)}; allow more, or leave"
                " these out with --experts"
            )
        self._arms = {arm.key: arm for arm in arms}
        self._shelf = Shelf(self._budget_bytes, {arm.key: arm.memory_bytes for arm in arms}, ttl_s=self._ttl_s)
        await self._inner.load([])
        self._spawn(self._tick())

    async def add(self, arm: ArmSpec) -> None:
        """See `Growing`: it is loaded now, and leaves as any other.

        Raises:
            EngineError: It does not load, or is larger than the budget.
        """
        if arm.memory_bytes > self._budget_bytes:
            raise EngineError(f"{arm.key} takes {arm.memory_bytes} bytes, the memory budget is {self._budget_bytes}")
        self._arms[arm.key] = arm
        self._shelf.put(arm.key, arm.memory_bytes)
        async with self._held(arm.key, None):
            pass

    def residency(self, key: str) -> Residency:
        """How an expert stands."""
        place, last = self._shelf.places[key], self._last.get(key)
        loading = self._loading == key
        return Residency(
            state=LOADING if loading else LOADED if place.loaded else UNLOADED,
            pinned=place.pinned,
            load_ms=0.0 if last is None else last.ms,
            load_j=None if last is None else last.energy.energy_j,
            progress_fraction=self._loads.load_progress(key) if loading else None,
            problem=self._problems.get(key, ""),
        )

    # ---- work

    async def infer(self, job: Job) -> JobResult:
        """See `Engine`. The answer says what loading took, where this work had to wait for it."""
        async with self._held(job.arm, job.start_by_s) as load:
            result = await self._inner.infer(job)
            return result if load is None else replace(result, load=load)

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine` and `infer`."""
        async with self._held(job.arm, job.start_by_s) as load, aclosing(self._inner.generate(job)) as pieces:
            async for piece in pieces:
                yield replace(piece, load=load) if isinstance(piece, TextEnd) and load is not None else piece

    @asynccontextmanager
    async def _held(self, key: str, start_by_s: float | None) -> AsyncIterator[LoadTaken | None]:
        """The expert is loaded and stays; gives what loading took if it was this work that caused it."""
        if key not in self._shelf.places:
            raise EngineError(f"no engine has loaded {key}")
        load = await self._take(key, start_by_s)
        try:
            yield load
        finally:
            self._give_back(key)

    async def _take(self, key: str, start_by_s: float | None) -> LoadTaken | None:
        place = self._shelf.places[key]
        # Where somebody waits for room, newcomers get behind them: else an expert that is always busy never leaves.
        if place.loaded and (place.pinned or not self._room_wanted):
            place.users += 1
            return None
        taking = self._spawn(self._take_in_turn(key, start_by_s))
        try:
            # A load goes on where the one who caused it is gone: half of one would be nobody's memory.
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda done: None if _failed(done) else self._give_back(key))
            raise

    async def _take_in_turn(self, key: str, start_by_s: float | None) -> LoadTaken | None:
        async with self._turn:
            place, load = self._shelf.places[key], None
            if not place.loaded:
                await self._make_room(key, start_by_s)
                load = await self._load_now(key)
            place.users += 1
            return load

    def _give_back(self, key: str) -> None:
        place = self._shelf.places[key]
        place.users -= 1
        place.used_s = time.monotonic()
        self._freed.set()

    async def _make_room(self, key: str, start_by_s: float | None) -> None:
        if not self._shelf.could_fit(key):
            raise EngineBusy(f"{key} does not fit beside what is pinned; unpin something or allow more memory")
        self._room_wanted = True
        left_s = None if start_by_s is None else max(0.0, start_by_s - time.monotonic())
        try:
            async with asyncio.timeout(left_s):
                while (leaving := self._shelf.leavers(key)) is None:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise DeadlinePassed("the deadline passed before the expert could be loaded") from None
        finally:
            self._room_wanted = False
        for other in leaving:
            await self._unload_now(other)

    async def _load_now(self, key: str) -> LoadTaken:
        self._loading = key
        self._problems.pop(key, None)
        self._changed(key)
        span, started_s = self._meter.begin(key, "load"), time.monotonic()
        try:
            await self._loads.add(self._arms[key])
            self._shelf.places[key].loaded = True
            self._shelf.places[key].used_s = time.monotonic()
        except EngineError as error:
            self._problems[key] = error.message
            raise
        finally:
            ms = (time.monotonic() - started_s) * 1e3
            load = LoadTaken(ms, self._meter.end(span, compute_ms=ms, macs=0))
            self._loading = ""
            if self._shelf.places[key].loaded:
                self._last[key] = load
            self._changed(key)
        log.info("expert loaded", arm=key, ms=round(ms, 1), j=load.energy.energy_j, used_bytes=self._shelf.used_bytes)
        return load

    async def _unload_now(self, key: str) -> None:
        self._shelf.places[key].loaded = False
        await self._loads.unload_arm(key)
        log.info("expert unloaded", arm=key, used_bytes=self._shelf.used_bytes)
        self._changed(key)

    # ---- what the operator asks for

    async def manage(self, key: str, verb: str, *, ttl_s: float = 0.0) -> None:
        """Load, unload, pin or unpin an expert; what came of it is told as its residency.

        Args:
            ttl_s: Idle seconds after which it leaves; 0 leaves that as it is.
        """
        place = self._shelf.places.get(key)
        if place is None or verb not in VERBS:
            return
        self._problems.pop(key, None)
        try:
            await self._follow(key, verb, ttl_s)
        except EngineError as error:
            self._problems[key] = error.message
        self._changed(key)

    async def _follow(self, key: str, verb: str, ttl_s: float) -> None:
        place = self._shelf.places[key]
        if verb == "unload":
            place.pinned = False
            async with self._turn:
                if place.users:
                    raise EngineBusy(f"{key} is at work; try again when it is not")
                if place.loaded:
                    await self._unload_now(key)
            return
        if ttl_s > 0.0:
            place.ttl_s = ttl_s
        if verb == "unpin":
            place.pinned = False
            return
        async with self._held(key, None):
            place.pinned = place.pinned or verb == "pin"

    async def _tick(self) -> None:
        """Tell how far a load is; unload what has idled too long."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._loading:
                self._changed(self._loading)
                continue
            async with self._turn:
                for key in self._shelf.expired(time.monotonic()):
                    await self._unload_now(key)

    def _changed(self, key: str) -> None:
        self.on_change(key, self.residency(key))

    async def close(self) -> None:
        """See `Engine`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inner.close()

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _failed(done: asyncio.Task[Any]) -> bool:
    return done.cancelled() or done.exception() is not None


def with_budget(engine: Engine, config: NodeConfig, meter: Meter) -> Engine:
    """The engine itself, or with the budget of memory that the settings ask for.

    Raises:
        ConfigError: if the engine cannot load and unload single experts.
    """
    if not config.memory_budget_bytes:
        return engine
    if not isinstance(engine, LoadsArms):
        raise ConfigError("--memory-budget: these experts cannot be loaded and unloaded one by one")
    ttl_s = config.idle_unload_s or math.inf
    return ResidentEngine(engine, engine, meter=meter, budget_bytes=config.memory_budget_bytes, ttl_s=ttl_s)
