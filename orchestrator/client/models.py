"""Pushed models as protobuf messages and as the client's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.v1 import models_pb2 as pb
from orchestrator.artifacts.types import Manifest, Missing, OnNode
from orchestrator.artifacts.wire import encode_manifest
from orchestrator.client.wire import Call

MODELS = "/edgewise.v1.Models"
# What is still under way.
UNDER_WAY = ("fetching", "checking")


@dataclass(frozen=True)
class PushedModel:
    """A model that was pushed and how far it is on each node."""

    name: str
    task: str
    digest: str
    size_bytes: int
    pushed_unix_s: float
    nodes: tuple[str, ...]
    on_nodes: tuple[OnNode, ...]

    @property
    def under_way(self) -> bool:
        """Whether a node that is there is still fetching or checking it."""
        return any(one.state in UNDER_WAY for one in self.on_nodes)


@dataclass(frozen=True)
class PushOutcome:
    """What has yet to be sent; `model` is None until nothing has."""

    missing: tuple[Missing, ...]
    model: PushedModel | None


def push(manifest: Manifest, nodes: Sequence[str]) -> Call[PushOutcome]:
    """The call that puts a model in force, or says what is missing of it."""
    request = pb.PushModelRequest(manifest=encode_manifest(manifest), nodes=nodes)
    return Call(f"{MODELS}/PushModel", request, pb.PushModelResponse, _outcome)


def put_chunk(sha256: str, size_bytes: int, offset: int, data: bytes) -> Call[int]:
    """The call that brings bytes of a blob; its reply is what has arrived."""
    request = pb.PutChunkRequest(sha256=sha256, size_bytes=size_bytes, offset=offset, data=data)
    return Call(f"{MODELS}/PutChunk", request, pb.PutChunkResponse, lambda reply: int(reply.offset))


def models() -> Call[tuple[PushedModel, ...]]:
    """The call that lists what was pushed."""
    return Call(
        f"{MODELS}/ListModels",
        pb.ListModelsRequest(),
        pb.ListModelsResponse,
        lambda reply: tuple(_model(entry) for entry in reply.models),
    )


def remove(name: str) -> Call[PushedModel]:
    """The call that takes a model out of force."""
    request = pb.RemoveModelRequest(name=name)
    return Call(f"{MODELS}/RemoveModel", request, pb.RemoveModelResponse, lambda reply: _model(reply.model))


def _outcome(reply: pb.PushModelResponse) -> PushOutcome:
    missing = tuple(Missing(entry.sha256, entry.offset) for entry in reply.missing)
    return PushOutcome(missing, _model(reply.model) if reply.HasField("model") else None)


def _model(message: pb.ModelStatus) -> PushedModel:
    return PushedModel(
        name=message.manifest.name,
        task=message.manifest.task,
        digest=message.digest,
        size_bytes=sum(file.size_bytes for file in message.manifest.files),
        pushed_unix_s=message.pushed_unix_s,
        nodes=tuple(message.nodes),
        on_nodes=tuple(
            OnNode(one.node, one.state, one.received_bytes, one.reason, one.message) for one in message.on_nodes
        ),
    )
