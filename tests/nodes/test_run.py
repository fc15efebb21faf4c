"""`python -m nodes run` as a process of its own, against a played gateway: answers, signals, death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest

from nodes.zoo.catalog import load_catalog
from tests.nodes.agent.gateway import PlayedGateway, PlayedSession, tensor_work

START_TIMEOUT_S = 20.0


@pytest.fixture
async def gateway() -> AsyncIterator[PlayedGateway]:
    gateway = PlayedGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def node(gateway: PlayedGateway) -> AsyncIterator[asyncio.subprocess.Process]:
    flags = ["--gateway", gateway.target, "--name", "n1", "--profile", "jetson-agx-orin", "--log", "json"]
    flags += ["--experts", "digits-linear,digits-mlp", "--profiling-s", "0.05"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodes", "run", *flags, stderr=asyncio.subprocess.PIPE
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _joined(gateway: PlayedGateway) -> PlayedSession:
    session = await gateway.session(timeout_s=START_TIMEOUT_S)
    session.welcome()
    await session.next("heartbeat")
    return session


async def _exit_code(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(15):
        return await process.wait()


async def test_a_shipped_expert_answers_and_sigterm_leaves_in_order(
    gateway: PlayedGateway, node: asyncio.subprocess.Process
) -> None:
    session = await _joined(gateway)
    held_out = load_catalog().held_out
    images, labels = held_out.inputs[:50], held_out.labels_n[:50]
    work = tensor_work(1, np.ascontiguousarray(images), expert="digits-mlp")
    session.send(work)
    done = await session.next("done")
    answers = np.frombuffer(done.outputs[0].data, np.float32).reshape(50, 10).argmax(axis=1)
    assert (answers == labels).mean() > 0.9
    assert done.energy.method == "profile:jetson-agx-orin"
    node.send_signal(signal.SIGTERM)
    assert "SIGTERM" in (await session.next("draining")).reason
    await session.half_closed.wait()
    session.end()
    assert await _exit_code(node) == 0
    assert node.stderr is not None
    lines = [json.loads(line) for line in (await node.stderr.read()).splitlines()]
    assert [line["event"] for line in lines] == ["ready", "joined", "draining", "left"]


async def test_the_engine_dies_with_an_agent_that_was_killed(
    gateway: PlayedGateway, node: asyncio.subprocess.Process
) -> None:
    await _joined(gateway)
    (worker,) = psutil.Process(node.pid).children()
    node.kill()
    await _exit_code(node)
    gone, alive = psutil.wait_procs([worker], timeout=3)
    assert (len(gone), len(alive)) == (1, 0)


async def test_the_agent_survives_its_engine(gateway: PlayedGateway, node: asyncio.subprocess.Process) -> None:
    session = await _joined(gateway)
    (worker,) = psutil.Process(node.pid).children()
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while (await session.next("heartbeat")).engine_restarts == 0:
            pass
    image = np.zeros((1, 8, 8), np.float32)
    outcomes: list[str | None] = []
    async with asyncio.timeout(10):
        while "done" not in outcomes:
            await session.next("heartbeat")
            session.send(tensor_work(len(outcomes), image, expert="digits-linear"))
            message, _ = await session.next_with_message("done", "failed")
            outcomes.extend(event.WhichOneof("event") for event in message.events)
    assert set(outcomes) <= {"done", "failed", "heartbeat"}


async def test_a_second_signal_leaves_at_once(gateway: PlayedGateway, node: asyncio.subprocess.Process) -> None:
    session = await _joined(gateway)
    (worker,) = psutil.Process(node.pid).children()
    worker.suspend()
    while worker.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
        await asyncio.sleep(0)
    session.send(tensor_work(1, np.zeros((1, 8, 8), np.float32), expert="digits-linear", deadline_ms=60_000))
    async with asyncio.timeout(10):
        while (await session.next("heartbeat")).running == 0:
            pass
    node.send_signal(signal.SIGINT)
    await session.next("draining")
    for _ in range(10):  # Heartbeats of 50 ms: longer than signals that count as one.
        await session.next("heartbeat")
    node.send_signal(signal.SIGINT)
    assert await _exit_code(node) == 130
