"""The gateway's desk for models: takes what is pushed, tells nodes what they are to have, hands out the pieces.

The gateway keeps bytes and never looks inside: it loads no model, so a bad one cannot hurt it. Nodes check.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog

from edgewise.v1 import fleet_pb2
from orchestrator.artifacts.blobs import MAX_CHUNK_BYTES, BlobShelf
from orchestrator.artifacts.register import Register
from orchestrator.artifacts.types import Manifest, Missing, ModelRecord, ModelReport, ModelStatus, OnNode
from orchestrator.artifacts.wire import chunk_command, wanted_command
from orchestrator.errors import RequestError
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession, OutboxFull, SessionEnded

REGISTER_FILE = "models.json"
# What a node is to have must fit one message.
MAX_FILES_IN_ALL = 4096

log = structlog.get_logger("models")


class ModelDesk:
    """One event loop; the disk is another thread's, one at a time.

    Args:
        fleet: Nodes.
        folder: Where models are kept.
        limit_bytes: What they may take together.
        clock: Monotonic seconds.

    Raises:
        EdgewiseError: STORE_CORRUPT.
    """

    def __init__(
        self, fleet: Fleet, folder: Path, *, limit_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet = fleet
        self._shelf = BlobShelf(folder, limit_bytes=limit_bytes, clock=clock)
        self._register = Register(folder / REGISTER_FILE)
        self._on_nodes: dict[tuple[str, str], OnNode] = {}
        self._reading: set[str] = set()
        self._last_chunk: dict[str, fleet_pb2.NodeCommand] = {}
        self._disk = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- operators

    async def push(self, manifest: Manifest, nodes: Sequence[str]) -> list[Missing] | ModelStatus:
        """Put a model in force, or say what of it has not arrived.

        Raises:
            RequestError: NODE_NOT_FOUND or MODELS_OFF.
        """
        for node in nodes:
            known = self._fleet.known.get(node)
            if known is None:
                raise RequestError("NODE_NOT_FOUND", "No node of this name was ever here; see `edgewise node list`.")
            if not known.accepts_models:
                raise RequestError("MODELS_OFF", f"{node} takes no models: see `edgewise node run --accept-models`.")
        others = [record for name, record in self._register.models.items() if name != manifest.name]
        if len(manifest.files) + sum(len(record.manifest.files) for record in others) > MAX_FILES_IN_ALL:
            raise RequestError("STORE_FULL", f"All models together may have {MAX_FILES_IN_ALL} files; remove some.")
        async with self._disk:
            missing = await asyncio.to_thread(self._missing, manifest)
            if missing:
                return missing
            record = ModelRecord(manifest, tuple(nodes), time.time())
            await asyncio.to_thread(self._keep, record)
        self._forget_states(manifest.name)
        log.info("model.pushed", model=manifest.name, digest=manifest.digest[:12], nodes=nodes or "all")
        self._tell_all()
        return self._status(record)

    def _missing(self, manifest: Manifest) -> list[Missing]:
        absent = {file.sha256 for file in manifest.files if not self._shelf.has(file.sha256)}
        return [Missing(sha256, self._shelf.arrived(sha256)) for sha256 in sorted(absent)]

    def _keep(self, record: ModelRecord) -> None:
        self._register.put(record)
        self._tidy()

    def _tidy(self) -> None:
        self._shelf.keep_only(
            file.sha256 for record in self._register.models.values() for file in record.manifest.files
        )

    async def put(self, sha256: str, size_bytes: int, offset: int, data: bytes) -> int:
        """Take bytes of a blob; returns what has arrived. Raises as `BlobShelf.put`."""
        async with self._disk:
            return await asyncio.to_thread(self._shelf.put, sha256, size_bytes, offset, data)

    def models(self) -> list[ModelStatus]:
        """All models in force, by name."""
        return [self._status(record) for _, record in sorted(self._register.models.items())]

    async def remove(self, name: str) -> ModelStatus:
        """A model is in force no longer: nodes stop offering it.

        Raises:
            RequestError: MODEL_NOT_FOUND.
        """
        record = self._register.models.get(name)
        if record is None:
            raise RequestError("MODEL_NOT_FOUND", "No model of this name was pushed; see `edgewise models pushed`.")
        async with self._disk:
            await asyncio.to_thread(self._drop, name)
        self._forget_states(name)
        log.info("model.removed", model=name)
        self._tell_all()
        return self._status(record)

    def _forget_states(self, name: str) -> None:
        self._on_nodes = {key: state for key, state in self._on_nodes.items() if key[0] != name}

    def _drop(self, name: str) -> None:
        self._register.drop(name)
        self._tidy()

    def _status(self, record: ModelRecord) -> ModelStatus:
        takers = {name for name, hello in self._fleet.known.items() if hello.accepts_models}
        nodes = sorted(takers if not record.nodes else set(record.nodes))
        return ModelStatus(record, tuple(self._on_node(record, node) for node in nodes))

    def _on_node(self, record: ModelRecord, node: str) -> OnNode:
        if node not in self._fleet.sessions:
            return OnNode(node, "waiting")
        told = self._on_nodes.get((record.manifest.name, node))
        return told or OnNode(node, "fetching")

    # ---- nodes

    def joined(self, session: NodeSession) -> None:
        """A node has come: tell it what it is to have, where it takes any or still has some."""
        self._on_nodes = {key: state for key, state in self._on_nodes.items() if key[1] != session.name}
        if session.hello.accepts_models and (session.hello.models or self._wanted(session.name)):
            self._tell(session)

    def _wanted(self, node: str) -> list[Manifest]:
        return [record.manifest for record in self._register.models.values() if record.is_for(node)]

    def _tell_all(self) -> None:
        for session in list(self._fleet.sessions.values()):
            if session.hello.accepts_models:
                self._tell(session)

    def _tell(self, session: NodeSession) -> None:
        try:
            session.send(wanted_command(self._wanted(session.name)))
        except (OutboxFull, SessionEnded):
            log.warning("node.not_told_of_models", node=session.name)

    def reported(self, report: ModelReport) -> None:
        """A node tells how far a model is; what is about another version of it is dropped."""
        record = self._register.models.get(report.name)
        if record is None or record.manifest.digest != report.digest:
            return
        state = report.on_node
        if state.reason:
            log.warning("model.refused", node=state.node, model=report.name, reason=state.reason, why=state.message)
        self._on_nodes[report.name, state.node] = state

    def wants(self, session: NodeSession, sha256: str, offset: int, length: int) -> None:
        """A node asks for bytes of a blob: it gets those of models that are meant for it."""
        meant = {file.sha256 for manifest in self._wanted(session.name) for file in manifest.files}
        allowed = sha256 in meant and 0 < length <= MAX_CHUNK_BYTES
        last = self._last_chunk.get(session.name)
        if session.name in self._reading or (last is not None and session.holds(last)):
            # One piece at a time: whoever asks for many at once must not fill this process's memory.
            log.warning("model.chunk_refused", node=session.name, why="another one is on its way")
            return
        self._reading.add(session.name)
        self._spawn(self._send(session, sha256, offset, length if allowed else 0))

    async def _send(self, session: NodeSession, sha256: str, offset: int, length: int) -> None:
        try:
            data = await asyncio.to_thread(self._shelf.read, sha256, offset, length) if length else b""
            command = self._last_chunk[session.name] = chunk_command(sha256, offset, data)
            session.send(command)
        except (OutboxFull, SessionEnded):
            log.debug("model.chunk_not_sent", node=session.name)
        finally:
            self._reading.discard(session.name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
