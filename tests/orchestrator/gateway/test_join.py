"""A node's stream on a live gateway: joining, evidence, replays, nonsense, draining, falling silent."""

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from edgewise.v1 import admin_pb2, common_pb2, fleet_pb2
from orchestrator.config import Nodes
from orchestrator.fleet import spread
from orchestrator.fleet.evidence import tensor_digest
from orchestrator.gateway import join, pace, report
from tests.fakes.arms import FakeArm, tensor_task
from tests.fakes.behaviours import answers, sends
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.node import FakeNode, JoinRefused
from tests.orchestrator.builders import a_hello, answers_to, joined, reference_set
from tests.orchestrator.gateway.calls import digit, infer, refusal, tensor, untyped

TWO = (FakeArm("small"), FakeArm("large", energy_j=0.1))


def states(live: Live) -> dict[str, str]:
    fleet = live.gateway.service.fleet
    return {name: fleet.state(name).value for name in fleet.known}


def arms(live: Live, task: str = "digits") -> list[str]:
    return [state.arm.name for state in live.gateway.service.fleet.board.arms(task)]


async def settled(live: Live, node: FakeNode) -> None:
    """Wait until what the node has sent so far has been read: a query goes through the same stream."""
    await infer(live, digit())


# ---- joining


async def test_a_node_that_joins_is_welcomed_with_what_it_needs(live: Live) -> None:
    async with live.node(arms=TWO, behaviour=answers(7)) as node:
        assert node.epoch == node.welcome.epoch > 0
        assert (node.welcome.heartbeat_s, node.welcome.lease_s) == (0.1, 5.0)
        assert node.welcome.gateway_version
        assert arms(live) == ["small:v1@fake-1", "large:v1@fake-1"]
        assert states(live) == {"fake-1": "healthy"}
    await until(lambda: states(live) == {"fake-1": "offline"})


@pytest.mark.parametrize(
    ("fields", "reason", "retryable"),
    [
        ({"name": "../up"}, "NAME_INVALID", False),
        ({"name": ""}, "NAME_INVALID", False),
        ({"protocol_version": 2}, "PROTOCOL_MISMATCH", False),
        ({"arms": [FakeArm(p50_ms=math.nan)]}, "FIELD_OUT_OF_RANGE", False),
        ({"arms": [FakeArm(energy_j=-1.0)]}, "FIELD_OUT_OF_RANGE", False),
        ({"arms": [FakeArm()], "tasks": []}, "TASK_UNKNOWN", False),
        ({"tasks": [tensor_task(classes=0)]}, "SHAPE_MISMATCH", False),
        ({"name": "taken"}, "NAME_TAKEN", True),
        ({"tasks": [tensor_task(classes=5)]}, "TASK_CONFLICT", False),
    ],
)
async def test_a_node_that_is_not_taken_is_told_why(
    live: Live, fields: dict[str, Any], reason: str, retryable: bool
) -> None:
    async with live.node(name="taken", behaviour=answers(7)):
        with pytest.raises(JoinRefused) as caught:
            await live.node(**({"behaviour": answers(1)} | fields)).join()
        assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
        assert 0 < len(caught.value.message) <= 200
        assert states(live) == {"taken": "healthy"}
        assert (await infer(live, digit())).label == "7"


async def test_who_says_nothing_is_let_go(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "HELLO_TIMEOUT_S", 0.02)
    stream = untyped(live.channel).stream_stream("/edgewise.v1.Fleet/Connect")()
    async with asyncio.timeout(5):
        replies = [reply async for reply in stream]
    assert replies == []


@pytest.mark.parametrize(
    "event",
    [fleet_pb2.NodeEvent(heartbeat=fleet_pb2.Heartbeat()), fleet_pb2.NodeEvent()],
    ids=["heartbeat", "nothing"],
)
async def test_the_first_word_must_be_hello(live: Live, event: fleet_pb2.NodeEvent) -> None:
    message = fleet_pb2.FromNode(sequence=1, events=[event])
    stream = untyped(live.channel).stream_stream("/edgewise.v1.Fleet/Connect")(iter([message.SerializeToString()]))
    (reply,) = [fleet_pb2.ToNode.FromString(reply) async for reply in stream]
    assert reply.commands[0].rejected.reason == "FIELD_REQUIRED"


# ---- many at once


async def test_many_wait_at_the_door_but_for_what_nobody_else_can_do(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PAUSE_S", 0.4)
    waits = live.gateway.joiner.pace
    alike = [live.node(name=f"n{number:02}", behaviour=answers(7)) for number in range(pace.AT_ONCE + 4)]
    joining = [asyncio.create_task(node.join()) for node in alike]
    await until(lambda: waits.waiting >= 3 and len(states(live)) >= pace.AT_ONCE)
    assert live.gateway.service.metrics.nodes_waiting() >= 2
    async with live.node(name="other", arms=[FakeArm("large")], behaviour=answers(7)):
        # It came last.
        assert waits.waiting >= 2
        waiting = [node for node in alike if states(live).get(node.name) is None]
        await waiting[-1].vanish()
        await until(lambda: waits.waiting <= len(waiting) - 1)
        await asyncio.wait(joining)
        assert states(live).keys() == {"other", *(node.name for node in alike if node is not waiting[-1])}
    await asyncio.gather(*(node.vanish() for node in alike))


# ---- evidence


async def test_what_nodes_prove_becomes_a_learned_plan(live: Live) -> None:
    reference = reference_set(80)
    proven = [
        FakeArm("small", evidence=answers_to(reference, right=0.7, seed=1)),
        FakeArm("large", energy_j=0.1, evidence=answers_to(reference, right=0.95, seed=2)),
    ]
    async with live.node(arms=proven, reference=reference, behaviour=answers(7)) as node:
        assert len(node.welcome.wanted_digests) == 3
        await until(lambda: hasattr(_model(live), "heads"))
        reply = await infer(live, digit())
        assert reply.routing.certificate.status == "optimal"
    async with live.node(arms=proven, reference=reference, behaviour=answers(7)) as node:
        assert list(node.welcome.wanted_digests) == []


def _model(live: Live) -> object:
    standing = live.gateway.planner.standing("digits")
    return None if standing is None else standing.plan.model


async def test_evidence_that_was_not_announced_or_does_not_match_is_dropped(live: Live) -> None:
    sent = {"outputs": np.ones((3, 10), dtype=np.float32)}
    other = {"outputs": np.zeros((3, 10), dtype=np.float32)}
    async with live.node(arms=[FakeArm(evidence=sent["outputs"])], behaviour=answers(7)) as node:
        store = live.gateway.service.fleet.evidence
        await until(lambda: tensor_digest(sent) in store)
        node.send_evidence(tensor_digest(other), other)
        node.send_evidence(tensor_digest(sent), other)
        await settled(live, node)
        assert tensor_digest(other) not in store
        assert store.get(tensor_digest(sent)) is not None
        assert states(live) == {"fake-1": "healthy"}


# ---- replays and nonsense


async def test_replays_and_messages_of_other_epochs_change_nothing(live: Live) -> None:
    async with live.node(name="old", behaviour=answers(1)) as former:
        old_epoch = former.epoch
    async with live.node(arms=TWO, behaviour=answers(7)) as node:
        await settled(live, node)
        before = arms(live)
        events = [
            fleet_pb2.NodeEvent(draining=fleet_pb2.Draining(reason="replayed")),
            fleet_pb2.NodeEvent(arms_changed=fleet_pb2.ArmsChanged()),
            *(fleet_pb2.NodeEvent(done=fleet_pb2.WorkDone(work_id=work_id)) for work_id in range(20)),
        ]
        for n in range(1000):
            epoch, sequence = ((node.epoch, n % 3), (old_epoch, 10_000 + n), (0, n), (2**64 - 1, 10_000 + n))[n % 4]
            node.send_raw(fleet_pb2.FromNode(epoch=epoch, sequence=sequence, events=events))
        assert (await infer(live, digit())).label == "7"
        assert arms(live) == before
        assert states(live)["fake-1"] == "healthy"


@pytest.mark.parametrize(
    "event",
    [
        fleet_pb2.NodeEvent(),
        fleet_pb2.NodeEvent(arms_changed=fleet_pb2.ArmsChanged(arms=[FakeArm(p50_ms=math.inf).message()])),
        fleet_pb2.NodeEvent(arms_changed=fleet_pb2.ArmsChanged(arms=[FakeArm(task="ghosts").message()])),
        fleet_pb2.NodeEvent(arms_changed=fleet_pb2.ArmsChanged(arms=[FakeArm().message()] * 2)),
        fleet_pb2.NodeEvent(hello=fleet_pb2.Hello(node="other")),
        fleet_pb2.NodeEvent(delta=fleet_pb2.TextDelta(work_id=5, text="x")),
        fleet_pb2.NodeEvent(failed=fleet_pb2.WorkFailed(work_id=2**63, reason="x" * 5000)),
    ],
)
async def test_an_event_that_makes_no_sense_is_dropped_and_the_session_lives(
    live: Live, event: fleet_pb2.NodeEvent
) -> None:
    async with live.node(behaviour=answers(7)) as node:
        node.emit(event)
        assert (await infer(live, digit())).label == "7"
        assert arms(live) == ["small:v1@fake-1"]
        assert states(live) == {"fake-1": "healthy"}


async def test_a_message_that_does_not_decode_is_dropped_and_the_session_lives(live: Live) -> None:
    node = live.node(behaviour=answers(7))
    hello = fleet_pb2.FromNode(sequence=1, events=[fleet_pb2.NodeEvent(hello=node.hello())])
    stream = untyped(live.channel).stream_stream("/edgewise.v1.Fleet/Connect")()
    await stream.write(hello.SerializeToString())
    welcome = fleet_pb2.ToNode.FromString(await stream.read()).commands[0].welcome
    await stream.write(b"\xff" * 50)
    changed = fleet_pb2.ArmsChanged(arms=[arm.message() for arm in TWO])
    event = fleet_pb2.NodeEvent(arms_changed=changed)
    await stream.write(fleet_pb2.FromNode(epoch=welcome.epoch, sequence=2, events=[event]).SerializeToString())
    await until(lambda: len(arms(live)) == 2)
    stream.cancel()
    await until(lambda: states(live) == {"fake-1": "offline"})


@pytest.mark.parametrize(
    "output",
    [
        tensor(name="probabilities", shape=[1, 10], data=bytes(39)),
        tensor(name="probabilities", shape=[2**62], data=b""),
        common_pb2.Tensor(name="probabilities", shape=[1, 10], data=bytes(40)),
    ],
    ids=["bytes", "huge", "dtype"],
)
async def test_a_result_that_does_not_decode_fails_at_once_and_another_arm_answers(
    live: Live, output: common_pb2.Tensor
) -> None:
    good, bad = FakeArm(energy_j=0.02), FakeArm(energy_j=0.01)
    async with (
        live.node(name="good", arms=[good], behaviour=answers(7)),
        live.node(name="bad", arms=[bad], behaviour=sends(output)),
    ):
        reply = await infer(live, digit())
        assert reply.label == "7"
        assert [(a.arm, a.reason) for a in reply.routing.attempts] == [
            ("small:v1@bad", "OUTPUT_INVALID"),
            ("small:v1@good", ""),
        ]
        assert reply.timing.total_ms < 90.0
        assert reply.energy.energy_j == pytest.approx(0.03)


# ---- how far apart nodes are to come back


async def test_nodes_are_told_how_far_apart_to_come_back(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "S_PER_NODE", 1.0)
    async with live.node(name="one", behaviour=answers(7)) as first:
        assert first.welcome.spread_s == 1.0
        async with (
            live.node(name="two", behaviour=answers(7)) as second,
            live.node(name="three", behaviour=answers(7)) as third,
        ):
            assert (second.welcome.spread_s, third.welcome.spread_s) == (2.0, 3.0)
            # Those that came before hear of it when they are heard.
            await until(lambda: first.seen.spreads_s == second.seen.spreads_s == [3.0])
        await until(lambda: list(states(live).values()).count("offline") == 2)
        beaten = live.gateway.service.fleet.sessions["one"]
        seen_s = beaten.seen_s
        await until(lambda: beaten.seen_s > seen_s)
        # A third of what it was told is close enough.
        assert first.seen.spreads_s == [3.0]


# ---- draining, falling silent


async def test_an_operator_drains_a_node(live: Live) -> None:
    admin: Any = live.admin
    async with (
        live.node(name="leaving", arms=[FakeArm(energy_j=0.001)], behaviour=answers(1)) as leaving,
        live.node(name="staying", behaviour=answers(7)),
    ):
        assert (await infer(live, digit())).label == "1"
        reply = await admin.DrainNode(admin_pb2.DrainNodeRequest(node="leaving"), timeout=5)
        assert reply.state == "draining"
        await asyncio.wait_for(leaving.seen.drained.wait(), 5)
        assert (await infer(live, digit())).label == "7"
    await refusal(admin.DrainNode(admin_pb2.DrainNodeRequest(node="leaving"), timeout=5), "NODE_NOT_FOUND")
    await refusal(admin.DrainNode(admin_pb2.DrainNodeRequest(node="../x"), timeout=5), "NAME_INVALID")


async def test_a_node_that_drains_by_itself_finishes_what_it_runs(live: Live) -> None:
    go = asyncio.Event()

    async def behave(turn: Any) -> None:
        await go.wait()
        await answers(7)(turn)

    async with live.node(behaviour=behave) as node:
        running = asyncio.ensure_future(infer(live, digit()))
        await node.received(1)
        node.emit(fleet_pb2.NodeEvent(draining=fleet_pb2.Draining(reason="SIGTERM")))
        await until(lambda: states(live) == {"fake-1": "draining"})
        await refusal(infer(live, digit()), "NO_NODE")
        go.set()
        assert (await running).label == "7"


async def test_a_lease_that_runs_out_ends_the_session_and_the_node_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "SWEEP_S", 0.02)
    async with live_gateway(tmp_path, nodes=Nodes(heartbeat_s=0.05, lease_s=0.25)) as live:
        node = live.node(behaviour=answers(7))
        await node.join()
        await asyncio.sleep(0.4)
        assert states(live) == {"fake-1": "healthy"}
        node.freeze()
        await until(lambda: states(live) == {"fake-1": "offline"})
        await refusal(infer(live, digit()), "NO_NODE")
        await node.vanish()
        async with live.node(behaviour=answers(7)):
            assert (await infer(live, digit())).label == "7"


async def test_nodes_that_are_lost_together_are_gone_at_once_and_put_away_one_by_one(live: Live) -> None:
    """What a node leaves behind takes the event loop longer than its going: requests run in between."""
    turns = live.gateway.joiner._partings
    nodes = [live.node(name=f"n{number}", behaviour=answers(7)) for number in range(5)]
    for node in nodes:
        await node.join()
    with capture_logs() as told:

        def left() -> list[str]:
            return [event["node"] for event in told if event["event"] == "node.left"]

        async with turns:
            await asyncio.gather(*(node.vanish() for node in nodes))
            await until(lambda: set(states(live).values()) == {"offline"})
            assert not left()
        await until(lambda: len(left()) == len(nodes))


async def test_what_all_nodes_are_is_told_a_few_at_a_time(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    service = live.gateway.service
    for number in range(40):
        joined(service.fleet, a_hello(f"n{number:02}"))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.0)
            turns += 1

    async def turns_of(at_once: int) -> int:
        nonlocal turns
        monkeypatch.setattr(report, "AT_ONCE", at_once)
        turns = 0
        assert [node.node for node in await report.encode_nodes(service)] == sorted(service.fleet.known)
        return turns

    counting = asyncio.create_task(count())
    try:
        assert await turns_of(8) >= 3
        # Control: all in one go lets nobody in between.
        assert await turns_of(1000) == 0
    finally:
        counting.cancel()
