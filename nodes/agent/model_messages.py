"""What an agent and a gateway tell each other of models: which are sent and come, and which are in memory."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.arms import Residency
from nodes.artifacts.manifest import Manifest

# ---- node to gateway


@dataclass(frozen=True)
class ChunkWanted:
    """The next bytes that the node wants of a blob."""

    sha256: str
    offset: int
    length: int


@dataclass(frozen=True)
class ModelReport:
    """How far a pushed model is here; fields as in `ModelReport` of the wire."""

    name: str
    digest: str
    state: str
    received_bytes: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class ResidencyChanged:
    """An expert was loaded, unloaded or pinned, or its load goes on."""

    expert: str
    variant: str
    residency: Residency


# ---- gateway to node


@dataclass(frozen=True)
class ModelsWanted:
    """All models that the node is to have from now on."""

    models: tuple[Manifest, ...]


@dataclass(frozen=True)
class ModelChunk:
    """Bytes of a blob; none where the gateway does not have it."""

    sha256: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class ModelOrder:
    """Load, unload, pin or unpin an expert; `ttl_s` of 0 leaves its idle time as it is."""

    expert: str
    variant: str
    verb: str
    ttl_s: float = 0.0
