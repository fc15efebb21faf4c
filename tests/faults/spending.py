"""A real gateway that is killed again and again while 32 clients spend, and what its books must say afterwards.

The node lives in the test and counts what it really did, so the truth does not come from the gateway. After every
restart: every settlement that a client was told is there with its joules, and what the node has ever spent is within
what is spent and held. At the end all orphans have been released, and the budget was not exceeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from edgewise.v1 import accounts_pb2, accounts_pb2_grpc, gateway_pb2, gateway_pb2_grpc
from orchestrator.client.types import Quota
from orchestrator.wire import encode_tensor
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import probabilities
from tests.fakes.node import FakeNode
from tests.fakes.processes import Fleet, http_get
from tests.fakes.turn import Turn

CLIENTS = 32
LIMIT_J = 4.0
TYPICAL_J = 0.01
SIGMA = 0.3
LEASE_S = 2.0
SETTINGS = {"EDGEWISE_LEDGER__LEASE_S": str(LEASE_S), "EDGEWISE_NODES__HEARTBEAT_S": "0.5"}
# After the first answer of a life, at the latest.
KILL_WITHIN_S = 0.4
READY_S = 40.0
STEP_FRACTION = 0.1


@dataclass
class Truth:
    """What happened, from outside the gateway."""

    run_j: float = 0.0
    overshoot_j: float = 0.0
    told_j: dict[str, float] = field(default_factory=dict)
    kills: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


class Worker:
    """A node's expert that takes joules step by step and stops at the first step beyond its limit."""

    def __init__(self, truth: Truth, chance: random.Random) -> None:
        self._truth = truth
        self._chance = chance

    async def __call__(self, turn: Turn) -> None:
        """Do one piece of work: its joules count from the moment that it has begun."""
        wanted_j = TYPICAL_J * self._chance.lognormvariate(0.0, SIGMA) * (3.0 if self._chance.random() < 0.05 else 1.0)
        step_j, limit_j = STEP_FRACTION * TYPICAL_J, turn.work.energy_limit_j or float("inf")
        spent_j = 0.0
        while spent_j < min(wanted_j, limit_j):
            spent_j += step_j
            self._truth.run_j += step_j
            await asyncio.sleep(0.0005)
        self._truth.overshoot_j += max(0.0, spent_j - limit_j)
        turn.done(probabilities(7), energy_j=spent_j)


async def killed(folder: Path, *, kills: int, seed: int) -> Truth:
    """Kill the gateway so often; what is wrong is in the result."""
    truth, chance = Truth(), random.Random(seed)
    with Fleet(folder, SETTINGS) as fleet:
        for life in range(kills + 1):
            await _start(fleet, truth, first=life == 0)
            await _live(fleet, truth, chance)
            if fleet.gateway is not None:
                await asyncio.to_thread(fleet.gateway.kill)
            truth.kills += 1
        await _start(fleet, truth, first=False)
        await _released(fleet, truth)
    return truth


async def _start(fleet: Fleet, truth: Truth, *, first: bool) -> None:
    """A gateway that answers, its books checked against the truth before anybody spends again."""
    fleet.start_gateway()
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        if (await asyncio.to_thread(http_get, f"http://{fleet.http_address}/healthz"))[0] == 200:
            break
        await asyncio.sleep(0.02)
    if first:
        with fleet.client() as client:
            await asyncio.to_thread(client.set_quota, "fleet", Quota(day_j=LIMIT_J))
    else:
        await _check(fleet, truth)


async def _live(fleet: Fleet, truth: Truth, chance: random.Random) -> None:
    """Clients spend until a random moment after the first answer."""
    arms = [FakeArm("small", energy_j=TYPICAL_J, p50_ms=2.0, p95_ms=5.0)]
    node = FakeNode(fleet.address, arms=arms, behaviour=Worker(truth, chance))
    await node.join()
    begun = asyncio.Event()
    async with grpc.aio.insecure_channel(fleet.address) as channel:
        clients = [asyncio.create_task(_spend(channel, truth, begun)) for _ in range(CLIENTS)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await begun.wait()
        await asyncio.sleep(chance.uniform(0.0, KILL_WITHIN_S))
        if fleet.gateway is not None:
            fleet.gateway.popen.kill()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
        await node.leave()


async def _spend(channel: grpc.aio.Channel, truth: Truth, begun: asyncio.Event) -> None:
    stub: Any = gateway_pb2_grpc.GatewayStub(channel)
    image = encode_tensor("image", np.zeros((1, 8, 8), dtype=np.float32))
    while True:
        try:
            reply = await stub.Infer(gateway_pb2.InferRequest(task="digits", inputs=[image]), timeout=5)
        except grpc.aio.AioRpcError as error:
            truth.refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(0.05)
            if truth.refused > CLIENTS:
                begun.set()
            continue
        truth.told_j[reply.request_id] = reply.energy.energy_j
        begun.set()


async def _check(fleet: Fleet, truth: Truth) -> None:
    rows = await _settlements(fleet)
    lost = [name for name, energy_j in truth.told_j.items() if rows.get(name) != energy_j]
    if lost:
        truth.wrong.append(f"{len(lost)} acknowledged settlements are lost")
    held_j, spent_j = await _balance(fleet)
    if held_j + spent_j > LIMIT_J + truth.overshoot_j + 1e-9:
        truth.wrong.append(f"{held_j + spent_j:.3f} J are held and spent")
    if truth.run_j > held_j + spent_j + CLIENTS * STEP_FRACTION * TYPICAL_J:
        truth.wrong.append(f"the node has spent {truth.run_j:.3f} J, the books know {held_j + spent_j:.3f} J")


async def _released(fleet: Fleet, truth: Truth) -> None:
    """After a lease nothing is held for the dead."""
    deadline_s = time.monotonic() + 3 * LEASE_S
    while (held_j := (await _balance(fleet))[0]) and time.monotonic() < deadline_s:  # noqa: ASYNC110 (over the wire)
        await asyncio.sleep(0.1)
    if held_j:
        truth.wrong.append(f"{held_j:.3f} J are still held")
    if truth.run_j > LIMIT_J + CLIENTS * STEP_FRACTION * TYPICAL_J:
        truth.wrong.append(f"the node has spent {truth.run_j:.3f} J of {LIMIT_J:g} J")


async def _settlements(fleet: Fleet) -> dict[str, float]:
    async with grpc.aio.insecure_channel(fleet.address) as channel:
        stub: Any = accounts_pb2_grpc.AccountsStub(channel)
        call = stub.ExportSettlements(accounts_pb2.ExportSettlementsRequest(last_s=86_400.0), timeout=60)
        return {row.request_id: row.energy_j async for row in call}


async def _balance(fleet: Fleet) -> tuple[float, float]:
    """Held and spent, over all windows of this run: it may pass midnight."""
    async with grpc.aio.insecure_channel(fleet.address) as channel:
        stub: Any = accounts_pb2_grpc.AccountsStub(channel)
        reply = await stub.GetQuotas(accounts_pb2.GetQuotasRequest(), timeout=10)
    meters = [meter for entry in reply.quotas for meter in entry.meters]
    return sum(meter.held for meter in meters), sum(meter.spent for meter in meters)


def summary(truths: Sequence[Truth]) -> dict[str, object]:
    """What is kept of a run."""
    return {
        "kills": sum(truth.kills for truth in truths),
        "acknowledged": sum(len(truth.told_j) for truth in truths),
        "refused": sum(truth.refused for truth in truths),
        "run_j": round(sum(truth.run_j for truth in truths), 6),
        "limit_j": LIMIT_J,
        "overshoot_j": round(sum(truth.overshoot_j for truth in truths), 6),
        "wrong": [sentence for truth in truths for sentence in truth.wrong],
    }
