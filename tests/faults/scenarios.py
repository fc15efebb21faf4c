"""Faults under load. One repeat of each: a calm phase, the fault, and what became of every request.

Three nodes share three experts such that each node is the first choice for one expert and each expert of a victim is
also on another node::

    node     experts          first choice for
    north    conv8            conv8   (north is the cheapest)
    middle   conv8 lenet5     lenet5
    south    lenet5 mlp       mlp

Both phases have the same arrivals: a steady stream for all three experts and one small burst for the victim's expert.
The experts answer in a tenth of a millisecond, so a fault would hardly ever strike work in progress; before a kill the
victim's engine is therefore stopped for some tens of milliseconds, and the burst is what then waits on it. Only the
latencies of the steady stream are compared.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import psutil

from orchestrator.client import AsyncClient, Budget
from orchestrator.errors import EdgewiseError
from tests.fakes.processes import Fleet, NodePlan, Running, http_get
from tests.faults.history import CALM, FAULT, Entry, Fault, Outcome, first_answer_s, judge, merge_log
from tests.faults.load import Load

NORTH = NodePlan("north", "jetson-agx-orin", ("digits-conv8",))
MIDDLE = NodePlan("middle", "rtx-4090", ("digits-conv8", "digits-lenet5"))
SOUTH = NodePlan("south", "laptop-cpu", ("digits-lenet5", "digits-mlp"))
NODES = (NORTH, MIDDLE, SOUTH)
EXPERTS = ("digits-conv8", "digits-lenet5", "digits-mlp")
# Nodes that may be struck, and the expert for which each is the first choice.
VICTIMS = (("north", "digits-conv8"), ("middle", "digits-lenet5"))

RATE_HZ = 80.0
BURST = 12
# Shorter than the patience after which the gateway tries another arm: the kill must come first.
STRIKE_S = (0.02, 0.06)
CALM_S = 3.5
KILL_S = 3.5
STOP_S = 5.0
BACK_S = 15.0
POLL_S = 0.05
NO_RETRIES = {"EDGEWISE_RETRIES__ENABLED": "false"}


@dataclass
class Stage:
    """What a scenario acts on: the fleet, a client, the seed of this repeat and the victim."""

    fleet: Fleet
    client: AsyncClient
    seed: int
    label: str

    @property
    def victim(self) -> str:
        """The node that is struck; repeats take turns."""
        return VICTIMS[self.seed % len(VICTIMS)][0]

    @property
    def expert(self) -> str:
        """The expert for which the victim is the first choice."""
        return VICTIMS[self.seed % len(VICTIMS)][1]

    @property
    def agent(self) -> Running:
        """The victim's agent."""
        return self.fleet.agents[self.victim]


Scenario = Callable[[Stage], Awaitable[Outcome]]


async def kill_node(stage: Stage) -> Outcome:
    """`kill -9` of one agent; it is started again afterwards."""
    load = _load(stage)
    await _calm(stage, load)
    fault = await _strike(stage, load, stage.agent.kill)
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=KILL_S)
    outcome = await _judged(stage, load, fault)
    await asyncio.to_thread(_restart_agent, stage)
    return outcome


async def stop_node(stage: Stage) -> Outcome:
    """SIGSTOP of one agent and its engine for 5 s, then SIGCONT; the load goes on until the node is back."""
    load = _load(stage)
    await _calm(stage, load)
    stage.agent.signal_group(signal.SIGSTOP)
    fault = Fault(stage.victim, time.monotonic())
    load.burst(stage.expert, BURST)
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=STOP_S)
    stage.agent.signal_group(signal.SIGCONT)
    back_s = await _while_loaded(load, lambda: _is_healthy(stage.client, stage.victim))
    outcome = await _judged(stage, load, fault, back_s=back_s)
    await asyncio.to_thread(stage.fleet.wait_ready)
    return outcome


async def kill_engine(stage: Stage) -> Outcome:
    """`kill -9` of one engine process; its agent must live on and serve again."""
    load = _load(stage)
    pid, (engine,) = stage.agent.pid, stage.agent.children()
    await _calm(stage, load)
    fault = await _strike(stage, load, engine.kill)
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=KILL_S)
    back_s = first_answer_s(load.entries, fault)
    outcome = await _judged(stage, load, fault, back_s=back_s)
    if stage.agent.pid != pid or not stage.agent.alive or engine.pid in [child.pid for child in stage.agent.children()]:
        raise AssertionError("the agent did not outlive its engine")
    # Engines that die three times while they run the same arm put it in quarantine; every repeat starts afresh.
    if await asyncio.to_thread(stage.agent.terminate) != 0:
        raise AssertionError("the agent did not leave in order")
    await asyncio.to_thread(_restart_agent, stage)
    return outcome


@dataclass(frozen=True)
class Restart:
    """What a restart of the gateway took."""

    listening_s: float
    agents_back_s: float
    answers_again_s: float
    answered: bool
    hung: int
    budget_kept: bool
    orphans: int


async def restart_gateway(stage: Stage) -> Restart:
    """`kill -9` of the gateway and a new one on the same port, while clients go on calling."""
    kept = Budget(max_latency_ms=9000.0 + stage.seed)
    await stage.client.set_budget(kept, task="digits")
    load = _load(stage)
    load.phase = FAULT
    calling = asyncio.ensure_future(load.steady(EXPERTS, rate_hz=RATE_HZ / 4, seconds=60.0))
    await asyncio.sleep(float(load.rng.uniform(0.3, 0.8)))
    helpers = await asyncio.to_thread(_kill_gateway, stage.fleet)
    killed_s = time.monotonic()
    stage.fleet.start_gateway()
    listening_s = await _until(lambda: _is_live(stage.fleet))
    agents_s = await _until(lambda: _all_healthy(stage.fleet.address))
    back_s = time.monotonic()
    answers_s = await _until(lambda: _answered_after(load, back_s))
    calling.cancel()
    entries = await load.settled()
    (budget,) = [entry for entry in await stage.client.budgets() if entry.task == "digits"]
    budget_kept = budget.origin == "set" and budget.budget.max_latency_ms == kept.max_latency_ms
    await stage.client.set_budget(None, task="digits")
    await asyncio.to_thread(stage.fleet.wait_ready)
    hung = sum(entry.latency_s > entry.deadline_s + 0.1 for entry in entries if entry.end_s > killed_s)
    orphans = sum(helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE for helper in helpers)
    return Restart(listening_s, agents_s, answers_s, answers_s < BACK_S, hung, budget_kept, orphans)


@asynccontextmanager
async def staged(fleet: Fleet, *, seed: int, label: str) -> AsyncIterator[Stage]:
    """A stage with a client that has one call behind it, so that connecting is not part of any latency."""
    async with AsyncClient(fleet.address) as client:
        await client.status()
        yield Stage(fleet, client, seed, f"{label}-{seed}")


async def warm_up(fleet: Fleet) -> None:
    """One second of load, so that the first repeat is like the others."""
    async with staged(fleet, seed=0, label="warm-up") as stage:
        load = _load(stage)
        await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=1.0)
        await load.settled()


# ---- load around a fault


def _load(stage: Stage) -> Load:
    return Load(stage.client, np.random.default_rng(stage.seed), stage.label)


async def _calm(stage: Stage, load: Load) -> None:
    """The phase without a fault; its burst is as large as the one that the fault meets."""
    load.phase = CALM
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=CALM_S / 2)
    load.burst(stage.expert, BURST)
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=CALM_S / 2)
    load.phase = FAULT


async def _strike(stage: Stage, load: Load, kill: Callable[[], object]) -> Fault:
    """Let work pile up on the victim, then kill."""
    for engine in stage.agent.children():
        engine.suspend()
    load.burst(stage.expert, BURST)
    await load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=float(load.rng.uniform(*STRIKE_S)))
    began_s = time.monotonic()
    kill()
    return Fault(stage.victim, began_s)


async def _judged(stage: Stage, load: Load, fault: Fault, *, back_s: float | None = None) -> Outcome:
    entries = await load.settled()
    return judge(await _with_log(stage, entries), fault, back_s=back_s)


async def _with_log(stage: Stage, entries: list[Entry]) -> list[Entry]:
    """The entries beside the gateway's log, whose last lines may still be on their way."""
    gateway = stage.fleet.gateway
    if gateway is None:
        return entries
    merged: list[Entry] = []
    for _ in range(int(BACK_S / POLL_S)):
        lines = [line for line in gateway.events("request") if line["request_id"].startswith(stage.label + "-")]
        merged = merge_log(entries, lines)
        if len(lines) >= len(entries):
            break
        await asyncio.sleep(POLL_S)
    return merged


async def _while_loaded(load: Load, holds: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until `holds`, with the steady stream going on."""
    calling = asyncio.ensure_future(load.steady(EXPERTS, rate_hz=RATE_HZ, seconds=BACK_S + 1.0))
    try:
        return await _until(holds)
    finally:
        calling.cancel()


async def _until(holds: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until `holds`; BACK_S where it never does."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < BACK_S and not await holds():  # noqa: ASYNC110 (other processes)
        await asyncio.sleep(POLL_S)
    return time.monotonic() - started_s


async def _is_healthy(client: AsyncClient, node: str) -> bool:
    try:
        status = await client.status()
    except EdgewiseError:
        return False
    return any(entry.node == node and entry.state == "healthy" for entry in status.nodes)


async def _all_healthy(address: str) -> bool:
    async with AsyncClient(address, timeout_s=1.0) as client:
        return all([await _is_healthy(client, plan.name) for plan in NODES])


async def _answered_after(load: Load, moment_s: float) -> bool:
    return any(entry.outcome == "ok" and entry.due_s > moment_s for entry in load.entries)


async def _is_live(fleet: Fleet) -> bool:
    status, _ = await asyncio.to_thread(http_get, f"http://{fleet.http_address}/healthz")
    return status == 200


def _restart_agent(stage: Stage) -> None:
    stage.fleet.start_agent(stage.fleet.plans[stage.victim])
    stage.fleet.wait_ready()


def _kill_gateway(fleet: Fleet) -> list[psutil.Process]:
    """`kill -9` of the gateway alone; its descendants, which must end by themselves."""
    if fleet.gateway is None:
        return []
    helpers = fleet.gateway.children()
    fleet.gateway.kill()
    return helpers
