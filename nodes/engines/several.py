"""Several engines as one: every arm runs in the engine that its card names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from nodes.arms import ArmSpec
from nodes.engines.contract import (
    Engine,
    EngineEvents,
    EngineState,
    Growing,
    Job,
    JobResult,
    LoadsArms,
    TextEnd,
    TextJob,
    TextPiece,
)
from nodes.errors import EngineError

# The state of several engines is that of the one that is worst off.
_WORST_FIRST = (EngineState.CLOSED, EngineState.STARTING, EngineState.RESTARTING, EngineState.READY)


class SeveralEngines:
    """Hands each job to its arm's engine.

    Args:
        engines: By the name that cards use, such as "onnx"; one engine may have several names.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.events = EngineEvents()
        self._engines = dict(engines)
        self._each = tuple(dict.fromkeys(self._engines.values()))
        self._by_arm: dict[str, Engine] = {}
        for engine in self._each:
            engine.events.on_arms_lost = self._tell_lost
            engine.events.on_arms_back = self._tell_back

    def _tell_lost(self, arms: Sequence[str]) -> None:
        self.events.on_arms_lost(arms)

    def _tell_back(self, arms: Sequence[str]) -> None:
        self.events.on_arms_back(arms)

    @property
    def state(self) -> EngineState:
        """See `Engine`."""
        states = {engine.state for engine in self._each}
        return next(state for state in _WORST_FIRST if state in states)

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return sum(engine.restarts for engine in self._each)

    @property
    def running(self) -> int:
        """See `Engine`."""
        return sum(engine.running for engine in self._each)

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return sum(engine.queued for engine in self._each)

    def engine_of(self, arm: str) -> Engine:
        """The engine that runs an arm.

        Raises:
            EngineError: if no loaded arm has that key.
        """
        try:
            return self._by_arm[arm]
        except KeyError:
            raise EngineError(f"no engine has loaded {arm}") from None

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`. The engines start side by side."""
        unknown = sorted({arm.engine for arm in arms} - set(self._engines))
        if unknown:
            raise EngineError(f"no such engine: {', '.join(unknown)}; there are {', '.join(self._engines)}")
        self._by_arm = {arm.key: self._engines[arm.engine] for arm in arms}
        await asyncio.gather(
            *(engine.load([arm for arm in arms if self._engines[arm.engine] is engine]) for engine in self._each)
        )

    async def add(self, arm: ArmSpec) -> None:
        """Load one more arm in the engine that its card names.

        Raises:
            EngineError: There is no such engine, it takes no further arms, or the arm does not load.
        """
        engine = self._engines.get(arm.engine)
        growing: object = engine
        if engine is None or not isinstance(growing, Growing):
            raise EngineError(f"no engine {arm.engine} that takes further arms; there are {', '.join(self._engines)}")
        await growing.add(arm)
        self._by_arm[arm.key] = engine

    async def infer(self, job: Job) -> JobResult:
        """See `Engine`."""
        return await self.engine_of(job.arm).infer(job)

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`."""
        return self.engine_of(job.arm).generate(job)

    async def unload_arm(self, key: str) -> None:
        """See `LoadsArms`: every engine here must be able to."""
        await self._loader(key).unload_arm(key)

    def load_progress(self, key: str) -> float | None:
        """See `LoadsArms`."""
        return self._loader(key).load_progress(key) if key in self._by_arm else None

    def _loader(self, key: str) -> LoadsArms:
        engine = self.engine_of(key)
        if not isinstance(engine, LoadsArms):
            raise EngineError(f"the engine of {key} loads nothing by itself")
        return engine

    async def close(self) -> None:
        """See `Engine`."""
        await asyncio.gather(*(engine.close() for engine in self._each))
