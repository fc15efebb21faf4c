"""Compiled arms that come while the node serves: made beside it, or made anew after their file was damaged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import structlog

from nodes.arms import ArmProfile, ArmSpec, Inventory
from nodes.compile.agent import with_forms
from nodes.config import NodeConfig
from nodes.energy.contract import Meter
from nodes.engines.contract import Engine, EngineState, Growing
from nodes.errors import EngineError, NodeError
from nodes.inventory import check_memory
from nodes.profiling import profile_arms

READY_TIMEOUT_S = 60.0

log = structlog.get_logger("nodes.compile")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Grown:
    """What a node offers from now on, and the figures of the arms that are new."""

    inventory: Inventory
    profiles: dict[str, ArmProfile]


@dataclass(frozen=True)
class Place:
    """Where arms run, and what measures their joules."""

    engine: Engine
    meter: Meter


async def compiled_beside(config: NodeConfig, inventory: Inventory, place: Place, *, lost: Collection[str]) -> Grown:
    """Make the forms that the settings ask for in a thread, load and measure those that are not served yet.

    What cannot be had is left out with a line in the log: the node goes on as it is.

    Args:
        inventory: What the node has, with or without compiled arms.
        lost: Arms of it that are not served any more; those whose file is whole are not tried again.
    """
    served = {arm.key for arm in inventory.arms} - {key for key in lost if spoilt(inventory, [key])}
    plain = tuple(arm for arm in inventory.arms if arm.compiled is None)
    try:
        made = await _in_thread(lambda: with_forms(config, replace(inventory, arms=plain)))
        check_memory(made, config.memory_limit_bytes)
        await _ready(place.engine)
        wanted = [arm for arm in made.arms if arm.compiled is not None and arm.key not in served]
        fresh = tuple([arm for arm in wanted if await _added(place.engine, arm)])
        profiles = await profile_arms(
            place.engine, place.meter, replace(made, arms=fresh), seconds_per_arm=config.profiling_s
        )
    except NodeError as error:
        log.error("no further arms", why=error.message)
        return Grown(inventory, {})
    kept = tuple(arm for arm in inventory.arms if arm.key not in profiles)
    return Grown(replace(inventory, arms=(*kept, *fresh)), profiles)


async def _added(engine: Engine, arm: ArmSpec) -> bool:
    try:
        if not isinstance(engine, Growing):
            raise EngineError("this engine takes no further arms")
        await engine.add(arm)
    except EngineError as error:
        log.warning("form left out", arm=arm.key, why=error.message)
        return False
    return True


async def _ready(engine: Engine) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while engine.state is not EngineState.READY:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise EngineError(f"the engine is {engine.state}") from error


def spoilt(inventory: Inventory, arms: Collection[str]) -> bool:
    """Whether one of these arms was compiled and a file of it is no longer what was announced."""
    return any(_is_spoilt(arm) for arm in inventory.arms if arm.key in arms)


def _is_spoilt(arm: ArmSpec) -> bool:
    if arm.compiled is None or arm.model_file is None:
        return False
    announced = {arm.model_file.name: arm.model_digest, **dict(arm.compiled.beside)}
    return any(_digest(arm.model_file.parent / name) != digest for name, digest in announced.items())


def _digest(file: Path) -> str:
    try:
        return sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


async def _in_thread(work: Callable[[], Result]) -> Result:
    """The result of blocking work. A node that leaves does not wait for it: a build may take minutes."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # Whatever it was belongs to whoever waits.
            tell(result.set_exception, error)
        else:
            tell(result.set_result, value)

    def tell(told: Callable[..., None], value: object) -> None:
        # The loop may be gone, or nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if result.done() else told(value))

    threading.Thread(target=run, name="compile", daemon=True).start()
    return await result
