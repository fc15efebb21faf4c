"""The demo's fleet: one gateway, three agents, and the wait for a plan that is learned and certified."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.devices import DEVICES, write_profile
from deploy.demo.processes import Child, DemoFailed, Processes
from deploy.demo.questions import TASK as TEXTS
from orchestrator.client import AsyncClient
from orchestrator.client.types import FleetStatus

START_S = 90.0
POLL_S = 0.05
TASK = "digits"
EDGEWISE = Path(sys.executable).with_name("edgewise")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A fleet that answers.

    Args:
        target: HOST:PORT of the gateway.
        status: The fleet as it was before the first query, so that its joules are the announced ones.
    """

    target: str
    status: FleetStatus


async def start_fleet(processes: Processes, build: Path, say: Say) -> Running:
    """Start gateway and agents, and wait until a learned, certified plan over all arms is in force.

    Raises:
        DemoFailed: A process ended, or the plan was not there in time.
    """
    say("Starting the gateway ...")
    gateway = await _start_gateway(processes)
    target = await _until(processes, lambda: _address(gateway), "the gateway listens")
    say(f"Starting three agents that join {target} ...")
    for device in DEVICES:
        profile = write_profile(device, build)
        options = ("--profile", str(profile), "--experts", ",".join((*device.experts, *device.texts)))
        seeds = ("--noise-seed", str(device.noise_seed))
        agent = (sys.executable, "-m", "nodes", "run", "--gateway", target, "--name", device.node)
        await processes.start(device.node, (*agent, *options, *seeds))
    say(
        "Waiting: each agent measures its experts, then the gateway learns from their evidence and certifies a plan ..."
    )
    return Running(target, await _planned(processes, gateway, target))


async def _start_gateway(processes: Processes) -> Child:
    if not EDGEWISE.exists():
        raise DemoFailed(f"{EDGEWISE} is missing; install first: pip install -e '.[demo]'")
    listen = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    state = ("--state-dir", str(processes.folder / "state"), "--log", "json")
    return await processes.start("gateway", (str(EDGEWISE), "gateway", *listen, *state))


async def _planned(processes: Processes, gateway: Child, target: str) -> FleetStatus:
    async with AsyncClient(target) as client:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            processes.check()
            status = await client.status()
            if _in_force(status, gateway):
                return status
            await asyncio.sleep(POLL_S)
    raise DemoFailed(f"No certified plan after {START_S:g} s. The end of {gateway.log}:\n{gateway.tail()}")


def _in_force(status: FleetStatus, gateway: Child) -> bool:
    """Whether every arm of the demo is in the plan, and the plan was learned and certified."""
    wanted = {TASK: sum(len(device.experts) for device in DEVICES), TEXTS: sum(len(device.texts) for device in DEVICES)}
    plans = {task.task: task for task in status.tasks}
    if any(name not in plans or len(plans[name].active_arms) < arms for name, arms in wanted.items()):
        return False
    learned = {line.get("plan") for line in _events(gateway, "plan.made") if line.get("learned")}
    return all(plans[name].plan_id in learned for name in wanted)


def _address(gateway: Child) -> str | None:
    return next((str(line["grpc"]) for line in _events(gateway, "gateway.listening")), None)


def _events(gateway: Child, event: str) -> list[dict[str, Any]]:
    """The log's lines of one event; a line that is still being written is left for later."""
    lines = [line for line in gateway.log.read_text().splitlines() if f'"{event}"' in line and line.endswith("}")]
    return [json.loads(line) for line in lines]


async def _until(processes: Processes, found: Callable[[], str | None], what: str) -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        processes.check()
        value = found()
        if value is not None:
            return value
        await asyncio.sleep(POLL_S)
    raise DemoFailed(f"Not after {START_S:g} s: {what}.")
