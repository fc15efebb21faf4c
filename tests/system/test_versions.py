"""Agents and gateways of neighbouring versions work together.

There is no binary of the last release here. In its place: its protos, by which today's protos are judged; its bytes, as
an agent and a gateway of it exchanged them; and a relay between today's two that lets through what it knew, or adds
what a later one may say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from edgewise.v1 import accounts_pb2, admin_pb2, common_pb2, fleet_pb2, gateway_pb2, identity_pb2
from tests.fakes.agents import ANSWER, running_agent
from tests.fakes.live import FAST, live_gateway, until
from tests.orchestrator.gateway.calls import digit, infer
from tests.system.previous.record import recorded
from tests.system.previous.relay import METHOD, relaying
from tests.system.previous.rules import Protos, broken, declared
from tests.system.previous.wire import NEXT, PREVIOUS, Change, released, released_files

# What the last release did not have: a gateway that tells of a replica (at which nobody listens).
NEWER = FAST.model_copy(update={"gateways": ("127.0.0.1:1",)})
TODAY = (common_pb2, fleet_pb2, gateway_pb2, admin_pb2, accounts_pb2, identity_pb2)


def todays_protos() -> descriptor_pb2.FileDescriptorSet:
    files = descriptor_pb2.FileDescriptorSet()
    for module in TODAY:
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files


# ---- the protos


def test_nothing_that_was_released_has_changed() -> None:
    before = declared(released_files())
    assert len(before.messages) > 50
    assert broken(before, declared(todays_protos())) == []


def _renumber(protos: Protos) -> None:
    protos.messages["edgewise.v1.Welcome"].field[1].number = 99


def _retype(protos: Protos) -> None:
    protos.messages["edgewise.v1.Heartbeat"].field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING


def _drop(protos: Protos) -> None:
    del protos.messages["edgewise.v1.WorkDone"].field[3]


def _rename_value(protos: Protos) -> None:
    protos.enums["edgewise.v1.Provenance"].value[1].name = "PROVENANCE_OTHER"


def _drop_method(protos: Protos) -> None:
    del protos.services["edgewise.v1.Gateway"].method[0]


def _leave_oneof(protos: Protos) -> None:
    protos.messages["edgewise.v1.NodeEvent"].field[0].ClearField("oneof_index")


@pytest.mark.parametrize("change", [_renumber, _retype, _drop, _rename_value, _drop_method, _leave_oneof])
def test_the_rules_find_what_breaks(change: Callable[[Protos], None]) -> None:
    now = declared(todays_protos())
    change(now)
    assert broken(declared(released_files()), now)


# ---- both of today, as the last release or the next one would hear them


@pytest.mark.parametrize("changes", [PREVIOUS, NEXT], ids=["previous", "next"])
async def test_a_neighbouring_version_joins_works_and_drains(tmp_path: Path, changes: tuple[Change, Change]) -> None:
    async with (
        live_gateway(tmp_path, nodes=NEWER) as live,
        relaying(live.address, changes) as (address, relay),
        running_agent(address, "neighbour") as agent,
    ):
        await until(lambda: (found := live.gateway.planner.standing("digits")) and found.plan.active)
        fleet = live.gateway.service.fleet
        node = fleet.sessions["neighbour"]
        # Evidence came through: the plan was learned from it.
        assert fleet.wanted_digests(node.hello) == []
        replies = [await infer(live, digit()) for _ in range(5)]
        assert {reply.label for reply in replies} == {str(ANSWER)}
        assert all(reply.energy.energy_j > 0.0 for reply in replies)
        seen_s = node.seen_s
        await until(lambda: node.seen_s > seen_s)
        admin: Any = live.admin
        await admin.DrainNode(admin_pb2.DrainNodeRequest(node="neighbour"), timeout=5)
        await until(lambda: "neighbour" not in fleet.sessions)
    kinds = {who for who, _ in relay.heard}
    assert kinds == {"node", "gateway"}
    if changes is PREVIOUS:
        # Control: something really was dropped, the replica that today's gateway tells of.
        assert relay.changed > 0
        assert agent._links.joined() == []
        assert list(agent._links._links) == [address]
    if changes is NEXT:
        # Control: what a later version adds really was added, to every message.
        assert relay.changed == len(relay.heard)


# ---- bytes of the last release


async def test_todays_gateway_takes_a_recorded_agent(tmp_path: Path) -> None:
    """Its hello, its evidence and its answers, to the byte but for the epoch and the number of the work."""
    said = [data for who, data in recorded() if who == "node"]
    from_node, to_node = released("edgewise.v1.FromNode"), released("edgewise.v1.ToNode")
    async with live_gateway(tmp_path) as live:
        channel: Any = live.channel
        call = channel.stream_stream(METHOD)()
        await call.write(said[0])
        (first,) = to_node.FromString(await call.read()).commands[:1]
        assert first.WhichOneof("command") == "welcome"
        epoch = first.welcome.epoch

        def again(data: bytes) -> Any:
            message = from_node.FromString(data)
            message.epoch = epoch
            return message

        answers = [m for m in map(again, said[1:]) if any(e.WhichOneof("event") == "done" for e in m.events)]
        for message in (again(data) for data in said[1:]):
            if not any(event.WhichOneof("event") == "done" for event in message.events):
                await call.write(message.SerializeToString())
        (node,) = live.gateway.service.fleet.sessions.values()
        await until(lambda: not live.gateway.service.fleet.wanted_digests(node.hello))
        asking = asyncio.create_task(infer(live, digit()))
        work = None
        while work is None:
            commands = to_node.FromString(await call.read()).commands
            work = next((c.work for c in commands if c.WhichOneof("command") == "work"), None)
        for event in answers[0].events:
            if event.WhichOneof("event") == "done":
                event.done.work_id = work.work_id
        await call.write(answers[0].SerializeToString())
        assert (await asking).label == str(ANSWER)
        call.cancel()


async def test_todays_agent_works_for_a_recorded_gateway() -> None:
    """Its welcome and its work, to the byte."""
    told = [data for who, data in recorded() if who == "gateway"]
    from_node, to_node = released("edgewise.v1.FromNode"), released("edgewise.v1.ToNode")
    works = [c.work.work_id for data in told for c in to_node.FromString(data).commands if c.HasField("work")]
    done: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        assert from_node.FromString(await anext(requests)).events[0].WhichOneof("event") == "hello"
        for data in told:
            yield data
        async for data in requests:
            for event in from_node.FromString(data).events:
                if event.WhichOneof("event") == "done":
                    done.put_nowait(event.done)

    server = grpc.aio.server()
    handlers = {"Connect": grpc.stream_stream_rpc_method_handler(connect)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("edgewise.v1.Fleet", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with running_agent(f"127.0.0.1:{port}"), asyncio.timeout(5.0):
        found = [await done.get() for _ in works]
    await server.stop(grace=0)
    assert len(works) == 2
    assert [one.work_id for one in found] == works
    assert all(one.energy.energy_j > 0.0 and len(one.outputs) == 1 for one in found)


def test_an_epoch_is_all_that_ties_the_recording_to_its_day() -> None:
    """The recording is of one whole session, from hello to the last answer."""
    kinds = [
        part.WhichOneof("event" if who == "node" else "command")
        for who, data in recorded()
        for part in (
            released("edgewise.v1.FromNode").FromString(data).events
            if who == "node"
            else released("edgewise.v1.ToNode").FromString(data).commands
        )
    ]
    assert kinds[:2] == ["hello", "welcome"]
    assert kinds.count("work") == kinds.count("done") == 2
    assert {"heartbeat", "evidence"} <= set(kinds)
