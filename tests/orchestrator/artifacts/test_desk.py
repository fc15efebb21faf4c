"""The gateway's desk: who gets which models, one piece at a time, and what nodes say of them."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from orchestrator.artifacts.desk import MAX_FILES_IN_ALL, ModelDesk
from orchestrator.artifacts.types import Manifest, ModelFile, ModelReport, ModelStatus, OnNode
from orchestrator.errors import RequestError
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession
from tests.orchestrator.builders import a_hello

DATA = b"weights" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
MODEL = Manifest("m", "digits", (ModelFile("model.onnx", SHA256, len(DATA)),))
LIMIT_BYTES = 1 << 20


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(ArmBoard(energy_quantile=0.99, latency_quantile=0.99), lease_s=5.0)


@pytest.fixture
def desk(fleet: Fleet, tmp_path: Path) -> ModelDesk:
    return ModelDesk(fleet, tmp_path, limit_bytes=LIMIT_BYTES)


def joined(fleet: Fleet, name: str, *, accepts_models: bool = True, models: tuple[str, ...] = ()) -> NodeSession:
    session = fleet.join(a_hello(name, accepts_models=accepts_models, models=models))
    assert isinstance(session, NodeSession)
    return session


async def push(desk: ModelDesk, *nodes: str) -> ModelStatus:
    await desk.put(SHA256, len(DATA), 0, DATA)
    pushed = await desk.push(MODEL, nodes)
    assert isinstance(pushed, ModelStatus)
    return pushed


def told(session: NodeSession) -> list[list[str]]:
    """Names of the models that a node was told to have, each time that it was."""
    commands = [one for one in session._outbox if one.WhichOneof("command") == "models_wanted"]
    return [[model.name for model in one.models_wanted.models] for one in commands]


def chunks(session: NodeSession) -> list[bytes]:
    return [one.model_chunk.data for one in session._outbox if one.WhichOneof("command") == "model_chunk"]


async def test_only_nodes_that_it_is_for_are_told(fleet: Fleet, desk: ModelDesk) -> None:
    mine, other, old = (
        joined(fleet, "mine"),
        joined(fleet, "other"),
        joined(fleet, "old", accepts_models=False),
    )
    await push(desk, "mine")
    assert (told(mine), told(other), told(old)) == ([["m"]], [[]], [])
    later = joined(fleet, "later")
    desk.joined(later)
    assert told(later) == []
    await push(desk)
    desk.joined(joined(fleet, "latest"))
    assert told(fleet.sessions["latest"]) == [["m"]]


async def test_a_node_that_holds_what_nobody_wants_is_told_so(fleet: Fleet, desk: ModelDesk) -> None:
    session = joined(fleet, "n1", models=("0" * 64,))
    desk.joined(session)
    assert told(session) == [[]]


async def test_unknown_nodes_and_those_that_take_none_cannot_be_targets(fleet: Fleet, desk: ModelDesk) -> None:
    joined(fleet, "old", accepts_models=False)
    for node, reason in (("nobody", "NODE_NOT_FOUND"), ("old", "MODELS_OFF")):
        with pytest.raises(RequestError) as error:
            await desk.push(MODEL, [node])
        assert error.value.reason == reason


async def test_who_asks_for_many_pieces_gets_one_at_a_time(fleet: Fleet, desk: ModelDesk) -> None:
    session = joined(fleet, "n1")
    await push(desk)
    for _ in range(50):
        desk.wants(session, SHA256, 0, 10)
        await asyncio.sleep(0.001)
    assert chunks(session) == [DATA[:10]]
    session._outbox.clear()
    desk.wants(session, SHA256, 10, 10)
    await asyncio.gather(*desk._tasks)
    assert chunks(session) == [DATA[10:20]]


@pytest.mark.parametrize(("sha256", "length"), [(SHA256, 1 << 30), (SHA256, 0), ("0" * 64, 10), ("../models.json", 10)])
async def test_what_is_not_meant_for_a_node_it_does_not_get(
    fleet: Fleet, desk: ModelDesk, sha256: str, length: int
) -> None:
    session, stranger = joined(fleet, "n1"), joined(fleet, "n2")
    await push(desk, "n1")
    desk.wants(session, sha256, 0, length)
    desk.wants(stranger, SHA256, 0, 10)
    await asyncio.gather(*desk._tasks)
    assert (chunks(session), chunks(stranger)) == ([b""], [b""])


async def test_what_a_node_said_of_another_version_does_not_count(fleet: Fleet, desk: ModelDesk) -> None:
    joined(fleet, "n1")
    await push(desk)
    refused = OnNode("n1", "refused", reason="OP_NOT_ALLOWED")
    desk.reported(ModelReport("m", "0" * 64, refused))
    assert desk.models()[0].on_nodes == (OnNode("n1", "fetching"),)
    desk.reported(ModelReport("m", MODEL.digest, refused))
    assert desk.models()[0].on_nodes == (refused,)
    await push(desk)
    assert desk.models()[0].on_nodes == (OnNode("n1", "fetching"),)


async def test_models_survive_a_restart_of_the_gateway(fleet: Fleet, desk: ModelDesk, tmp_path: Path) -> None:
    await push(desk)
    again = ModelDesk(fleet, tmp_path, limit_bytes=LIMIT_BYTES)
    assert again.models()[0].record.manifest == MODEL
    await again.remove("m")
    assert ModelDesk(fleet, tmp_path, limit_bytes=LIMIT_BYTES).models() == []


async def test_all_models_together_fit_one_message(desk: ModelDesk) -> None:
    files = tuple(ModelFile(f"f{n}", SHA256, len(DATA)) for n in range(MAX_FILES_IN_ALL + 1))
    with pytest.raises(RequestError) as error:
        await desk.push(Manifest("m", "digits", files), ())
    assert error.value.reason == "STORE_FULL"
