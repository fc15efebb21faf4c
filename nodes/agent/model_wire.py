"""What agent and gateway say about pushed models, to protobuf and back."""

from __future__ import annotations

from edgewise.v1 import fleet_pb2 as fleet
from edgewise.v1 import models_pb2 as models
from nodes.agent import messages as m
from nodes.artifacts.manifest import FileEntry, Manifest


def report(told: m.ModelReport) -> fleet.ModelReport:
    """How far a model is here."""
    return fleet.ModelReport(
        name=told.name,
        digest=told.digest,
        state=told.state,
        received_bytes=told.received_bytes,
        reason=told.reason,
        message=told.message,
    )


def chunk_wanted(wanted: m.ChunkWanted) -> fleet.ChunkWanted:
    """The next bytes that are wanted of a blob."""
    return fleet.ChunkWanted(sha256=wanted.sha256, offset=wanted.offset, length=wanted.length)


def models_wanted(message: fleet.ModelsWanted) -> m.ModelsWanted:
    """What this node is to have, not checked yet."""
    return m.ModelsWanted(tuple(manifest(one) for one in message.models))


def manifest(message: models.ModelManifest) -> Manifest:
    """A manifest, not checked yet."""
    files = tuple(FileEntry(file.path, file.sha256, file.size_bytes) for file in message.files)
    return Manifest(message.name, message.task, files)


def model_chunk(message: fleet.ModelChunk) -> m.ModelChunk:
    """Bytes of a blob."""
    return m.ModelChunk(message.sha256, message.offset, message.data)
