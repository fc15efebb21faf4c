"""The agent against a played gateway over a real gRPC stream."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.arms import ArmSpec, Inventory, TaskSpec
from nodes.config import parse_config
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from nodes.errors import EngineDied, ExitCode, SessionRejected
from tests.fakes.energy.worlds import profile
from tests.nodes.agent import gateway as played
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.agent.gateway import PlayedGateway, PlayedSession, tensor_work
from tests.nodes.conftest import MACS, digit

SPEAKER = ArmSpec("speaker", "fake", "chat", "fake", 0, 10, 0.5, 10)


@pytest.fixture
async def gateway() -> AsyncIterator[PlayedGateway]:
    gateway = PlayedGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def parts(inventory: Inventory) -> Parts:
    tasks = (*inventory.tasks, TaskSpec("chat", text=True))
    offered = dataclasses.replace(inventory, tasks=tasks, arms=(*inventory.arms, SPEAKER))
    energy = EnergySource(ModelledMeter(profile()), "test device", True, "test")
    return Parts(FakeEngine(), energy, offered)


@asynccontextmanager
async def running(gateway: PlayedGateway, parts: Parts) -> AsyncIterator[tuple[Agent, asyncio.Task[None]]]:
    config = parse_config({"gateway": gateway.target, "name": "n1", "profiling_s": 0.05, "concurrency": 1})
    agent = Agent(config, parts, rng=random.Random(0))
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    try:
        yield agent, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()


@pytest.fixture
async def agent(gateway: PlayedGateway, parts: Parts) -> AsyncIterator[Agent]:
    async with running(gateway, parts) as (agent, _task):
        yield agent


@pytest.fixture
async def session(gateway: PlayedGateway, agent: Agent) -> PlayedSession:
    session = await gateway.session()
    await session.next("hello")
    session.welcome()
    await session.next("heartbeat")
    return session


def engine_of(agent: Agent) -> FakeEngine:
    assert isinstance(agent.engine, FakeEngine)
    return agent.engine


async def test_hello_tells_what_the_node_offers(gateway: PlayedGateway, agent: Agent, inventory: Inventory) -> None:
    session = await gateway.session()
    message, hello = await session.next_with_message("hello")
    assert (message.epoch, message.sequence) == (0, 1)
    assert (hello.node, hello.protocol_version, hello.device, hello.simulated) == ("n1", 1, "test device", True)
    assert hello.energy_provenance == common.PROVENANCE_MODELLED
    assert hello.energy_method == "profile:test"
    assert (hello.concurrency, hello.queue_limit) == (1, 64)
    tasks = {task.name: task for task in hello.tasks}
    assert list(tasks["digits"].input.shape) == [-1, 8, 8]
    assert tasks["digits"].reference_digest == inventory.tasks[0].reference_digest
    assert tasks["chat"].text
    arms = {arm.expert: arm for arm in hello.arms}
    tiny = arms["tiny"]
    assert tiny.macs == MACS
    assert tiny.latency.samples >= 5
    assert tiny.latency.provenance == common.PROVENANCE_MEASURED
    assert tiny.energy.mean_j == pytest.approx(1e-3 + MACS * 2e-6)
    assert tiny.energy.provenance == common.PROVENANCE_MODELLED
    assert arms["speaker"].latency.provenance == common.PROVENANCE_UNMEASURED


async def test_wanted_evidence_is_sent_before_anything_is_asked_twice(
    gateway: PlayedGateway, agent: Agent, inventory: Inventory
) -> None:
    session = await gateway.session()
    await session.next("hello")
    wanted = [*inventory.evidence, "f" * 64]
    session.welcome(wanted=wanted)
    for digest in inventory.evidence:
        message, evidence = await session.next_with_message("evidence")
        assert message.epoch == 7
        assert evidence.digest == digest
        for tensor in evidence.tensors:
            expected = inventory.evidence[digest][tensor.name]
            assert tensor.data == expected.tobytes()
            assert tuple(tensor.shape) == expected.shape


async def test_work_is_answered_with_joules_and_times(session: PlayedSession) -> None:
    image = np.arange(128, dtype=np.float32).reshape(2, 8, 8)
    session.send(tensor_work(1, image))
    done = await session.next("done")
    assert done.work_id == 1
    (output,) = done.outputs
    assert (output.name, list(output.shape)) == ("probabilities", [2, 10])
    assert np.frombuffer(output.data, np.float32).tolist() == [*range(10), *range(64, 74)]
    assert (done.queue_ms, done.compute_ms) == (0.25, 0.5)
    assert done.energy.energy_j == pytest.approx(1e-3 + 2 * MACS * 2e-6)
    assert done.energy.provenance == common.PROVENANCE_MODELLED


async def test_sequences_rise_by_one_and_carry_the_epoch(session: PlayedSession) -> None:
    last = 0
    for work_id in range(1, 20):
        session.send(tensor_work(work_id, digit(1)))
        message, _ = await session.next_with_message("done")
        assert message.epoch == 7
        assert message.sequence > last
        last = message.sequence


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "picture"},
        {"dtype": common.DTYPE_FLOAT64},
        {"dtype": 77},
        {"shape": [1, 64]},
        {"shape": [0, 8, 8]},
        {"shape": [-1, 8, 8]},
        {"shape": [2**40, 8, 8]},
        {"shape": [2, 8, 8]},
        {"data": b""},
        {"data": np.full((1, 8, 8), np.nan, np.float32).tobytes()},
    ],
)
async def test_a_tensor_that_does_not_fit_fails_for_good(session: PlayedSession, changes: dict[str, Any]) -> None:
    session.send(tensor_work(1, digit(1), **changes), tensor_work(2, digit(1)))
    failed = await session.next("failed", "done")
    assert (failed.work_id, failed.reason, failed.final) == (1, "INPUT_INVALID", True)
    assert not failed.HasField("energy")
    assert (await session.next("done")).work_id == 2


async def test_work_that_cannot_be_begun(session: PlayedSession) -> None:
    session.send(tensor_work(1, digit(1), expert="nobody"))
    assert (await session.next("failed")).reason == "ARM_UNKNOWN"
    for work_id, deadline_ms in enumerate((0.0, -1.0, float("nan")), start=2):
        session.send(tensor_work(work_id, digit(1), deadline_ms=deadline_ms))
        assert (await session.next("failed")).reason == "DEADLINE"
    work = fleet.Work(work_id=9, expert="tiny", variant="onnx-fp32", deadline_ms=1000.0)
    session.send(fleet.NodeCommand(work=work))
    assert (await session.next("failed")).reason == "INPUT_INVALID"


async def test_a_deadline_that_passes_in_the_queue(session: PlayedSession, agent: Agent) -> None:
    session.send(tensor_work(1, digit(1), expert="slow"), tensor_work(2, digit(1), deadline_ms=1.0))
    # Heartbeats come every 50 ms: with the second of them the deadline is over.
    await session.next("heartbeat")
    await session.next("heartbeat")
    engine_of(agent).gate.set()
    assert (await session.next("done")).work_id == 1
    failed = await session.next("failed")
    assert (failed.work_id, failed.reason, failed.final) == (2, "DEADLINE", True)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(EngineDied("secret /path"), "ENGINE_DIED"), (ValueError("secret /path"), "ENGINE_ERROR")],
)
async def test_an_engines_trouble_is_a_reason_without_its_text_and_with_its_joules(
    session: PlayedSession, agent: Agent, failure: Exception, reason: str
) -> None:
    engine_of(agent).failure = failure
    session.send(tensor_work(1, digit(1)))
    failed = await session.next("failed")
    assert (failed.reason, failed.final) == (reason, False)
    assert "secret" not in failed.message
    assert failed.energy.energy_j == pytest.approx(1e-3 + MACS * 2e-6)


async def test_a_full_queue_is_busy(session: PlayedSession, agent: Agent) -> None:
    session.send(*(tensor_work(work_id, digit(1), expert="slow") for work_id in range(1, 5)))
    failed = await session.next("failed")
    assert (failed.work_id, failed.reason, failed.final) == (4, "NODE_BUSY", False)
    engine_of(agent).gate.set()
    assert [(await session.next("done")).work_id for _ in range(3)] == [1, 2, 3]


async def test_cancel_drops_waiting_work_and_discards_running_work(session: PlayedSession, agent: Agent) -> None:
    session.send(tensor_work(1, digit(1), expert="slow"), tensor_work(2, digit(1)))
    session.send(played.cancel(2), played.cancel(1), played.cancel(99))
    waiting = await session.next("failed")
    assert (waiting.work_id, waiting.reason) == (2, "CANCELLED")
    assert not waiting.HasField("energy")
    engine_of(agent).gate.set()
    discarded = await session.next("failed", "done")
    assert (discarded.work_id, discarded.reason) == (1, "CANCELLED")
    assert discarded.energy.energy_j > 0.0
    session.send(tensor_work(3, digit(1)))
    assert (await session.next("done")).work_id == 3


async def test_stale_messages_are_dropped(session: PlayedSession) -> None:
    session.send(tensor_work(1, digit(1)), epoch=6)
    session.send(tensor_work(2, digit(1)), sequence=1)
    session.send(tensor_work(3, digit(1)))
    session.send(tensor_work(4, digit(1)), sequence=session.sequence)
    session.send(tensor_work(5, digit(1)))
    assert [(await session.next("done", "failed")).work_id for _ in range(2)] == [3, 5]


async def test_text_comes_token_by_token(session: PlayedSession, agent: Agent) -> None:
    engine_of(agent).gate.set()
    session.send(played.text_work(1, "one two three"))
    deltas = [await session.next("delta") for _ in range(3)]
    assert [(delta.text, list(delta.token_ids)) for delta in deltas] == [
        ("one ", [0]),
        ("two ", [1]),
        ("three ", [2]),
    ]
    done = await session.next("done")
    assert done.text == "one two three "
    assert done.finish_reason == common.FINISH_REASON_STOP
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (1, 3)
    assert done.energy.energy_j == pytest.approx(1e-3 + 1000 * 2e-6)
    session.send(played.text_work(2, "one two three", max_tokens=2))
    assert (await session.next("done")).finish_reason == common.FINISH_REASON_LENGTH


async def test_a_cancelled_text_stops_at_the_next_token(session: PlayedSession, agent: Agent) -> None:
    engine = engine_of(agent)
    session.send(played.text_work(1, "a b c d e f g h"))
    await session.next("heartbeat")
    assert engine.running == 1
    session.send(played.cancel(1))
    failed = await session.next("failed")
    assert (failed.reason, engine.spoken, engine.running) == ("CANCELLED", 0, 0)
    assert failed.HasField("energy")
    engine.gate.set()
    session.send(played.text_work(2, "still here"))
    assert (await session.next("done")).text == "still here "


async def test_text_for_a_tensor_expert_and_the_other_way_round(session: PlayedSession) -> None:
    wrong = played.text_work(1, "hello")
    wrong.work.expert, wrong.work.variant = "tiny", "onnx-fp32"
    other = tensor_work(2, digit(1), expert="speaker")
    other.work.variant = "fake"
    session.send(wrong, other)
    assert [(await session.next("failed")).reason for _ in range(2)] == ["INPUT_INVALID"] * 2


async def test_a_lost_arm_is_announced(session: PlayedSession, agent: Agent) -> None:
    agent.engine.events.on_arms_lost(["slow:onnx-fp32"])
    changed = await session.next("arms_changed")
    assert [arm.expert for arm in changed.arms] == ["tiny", "speaker"]


async def test_drain_by_the_gateway_finishes_work_and_ends_the_agent(gateway: PlayedGateway, parts: Parts) -> None:
    async with running(gateway, parts) as (agent, task):
        session = await gateway.session()
        session.welcome()
        session.send(tensor_work(1, digit(1), expert="slow"))
        await session.next("heartbeat")
        session.send(played.drain("maintenance"))
        assert (await session.next("draining")).reason == "maintenance"
        session.send(tensor_work(2, digit(1)))
        assert (await session.next("failed")).reason == "DRAINING"
        assert not task.done()
        engine_of(agent).gate.set()
        assert (await session.next("done")).work_id == 1
        async with asyncio.timeout(5):
            await session.half_closed.wait()
            session.end()
            await task


async def test_drain_of_an_agent_without_a_gateway_returns_at_once(gateway: PlayedGateway, parts: Parts) -> None:
    await gateway.stop()
    async with running(gateway, parts) as (agent, task):
        agent.drain("stop")
        async with asyncio.timeout(3):
            await task


async def test_the_agent_comes_back_after_the_gateway_did_and_keeps_its_engine(
    gateway: PlayedGateway, parts: Parts
) -> None:
    async with running(gateway, parts) as (agent, _task):
        session = await gateway.session()
        session.welcome(epoch=7)
        session.send(tensor_work(1, digit(1), expert="slow"))
        await session.next("heartbeat")
        assert agent.engine.running == 1
        await gateway.stop()
        await gateway.start(gateway.port)
        again = await gateway.session(timeout_s=7.0)
        message, hello = await again.next_with_message("hello")
        assert (message.epoch, message.sequence, hello.node) == (0, 1, "n1")
        assert agent.engine.running == 0
        again.welcome(epoch=8)
        again.send(tensor_work(2, digit(1)), epoch=7)
        again.send(tensor_work(3, digit(1)))
        assert (await again.next("done", "failed")).work_id == 3
        assert agent.engine.restarts == 0


async def test_a_refusal_for_now_is_tried_again(gateway: PlayedGateway, agent: Agent) -> None:
    first = await gateway.session()
    first.send(played.rejected("NODE_NAME_TAKEN", retryable=True))
    second = await gateway.session()
    await second.next("hello")
    second.welcome()
    await second.next("heartbeat")


@pytest.mark.parametrize(
    ("reason", "code"), [("PROTOCOL_UNSUPPORTED", ExitCode.CONFIG), ("UNAUTHENTICATED", ExitCode.AUTH)]
)
async def test_a_refusal_for_good_ends_the_agent(
    gateway: PlayedGateway, parts: Parts, reason: str, code: ExitCode
) -> None:
    async with running(gateway, parts) as (_agent, task):
        session = await gateway.session()
        session.send(played.rejected(reason, retryable=False))
        with pytest.raises(SessionRejected, match=reason) as caught:
            await asyncio.wait_for(task, 5)
        assert caught.value.exit_code is code
