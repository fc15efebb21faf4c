"""Models as the gateway knows them: files by content, where they go, and how far they are there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

STATES = ("waiting", "fetching", "checking", "serving", "refused", "failed")


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: where it belongs, and the SHA-256 of its content, in hex."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything that belongs to a model."""

    name: str
    task: str
    files: tuple[ModelFile, ...]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of a canonical text; nodes compute the same."""
        lines = sorted(f"{file.sha256} {file.size_bytes} {file.path}" for file in self.files)
        return hashlib.sha256("\n".join([self.name, self.task, *lines]).encode()).hexdigest()


@dataclass(frozen=True)
class ModelRecord:
    """A model in force.

    Attributes:
        nodes: Where it goes; empty for every node, also those that join later.
    """

    manifest: Manifest
    nodes: tuple[str, ...]
    pushed_unix_s: float

    def is_for(self, node: str) -> bool:
        """Whether it goes to a node."""
        return not self.nodes or node in self.nodes


@dataclass(frozen=True)
class OnNode:
    """How far a model is on a node; `reason` and `message` say why where it was refused."""

    node: str
    state: str
    received_bytes: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class ModelReport:
    """What a node says about a model."""

    name: str
    digest: str
    on_node: OnNode


@dataclass(frozen=True)
class ModelStatus:
    """A model in force and how far it is everywhere."""

    record: ModelRecord
    on_nodes: tuple[OnNode, ...] = field(default=())


@dataclass(frozen=True)
class Missing:
    """A blob that has not arrived, and how much of it has."""

    sha256: str
    offset: int
