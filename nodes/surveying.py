"""Runs a survey of this node in the foreground: engine and energy source as an agent would have them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from nodes.agent.parts import Parts, build_parts
from nodes.config import parse_config
from nodes.errors import ConfigError
from nodes.survey import Plan, document, survey

# The settings of an agent name a gateway; a survey dials none.
NO_GATEWAY = "127.0.0.1:1"
_ENERGY = ("profile", "energy", "energy_trace", "calibration")
_COMPILED = ("compile", "compile_loss_points", "compile_cache", "compile_cache_mib", "gpu_python")
# What the command has in common with an agent.
SHARED = ("worker_python", "models", *_ENERGY, *_COMPILED)


def survey_node(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a survey found, ready to be written.

    Args:
        given: The command's options by name.

    Raises:
        ConfigError, EnergySourceMissing, EngineError.
    """
    concurrencies = numbers("concurrencies", given["concurrencies"])
    plan = Plan(numbers("batches", given["batches"]), concurrencies, given["seconds"])
    settings = {key: given[key] for key in SHARED}
    experts = tuple(name.strip() for name in (given["experts"] or "").split(",") if name.strip())
    config = parse_config({**settings, "gateway": NO_GATEWAY, "experts": experts, "concurrency": max(concurrencies)})
    return asyncio.run(_survey(build_parts(config), plan))


async def _survey(parts: Parts, plan: Plan) -> dict[str, Any]:
    parts.energy.start()
    try:
        await parts.engine.load(parts.inventory.arms)
        points = await survey(parts.engine, parts.energy.meter, parts.inventory, plan)
    finally:
        parts.energy.stop()
        await parts.engine.close()
    return document(parts.energy, plan, points, made_unix_s=time.time())


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """Whole numbers of an option, in order, each once.

    Raises:
        ConfigError: They cannot be read, or are out of range.
    """
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= 64:
        raise ConfigError(f"--{flag}: use whole numbers from 1 to 64, such as 1,4")
    return numbers
