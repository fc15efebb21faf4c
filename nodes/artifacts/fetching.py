"""Fetches blobs over the session's stream: asks for one piece, keeps it, asks for the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from nodes.agent import messages as m
from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.artifacts.pace import Pace
from nodes.artifacts.store import ModelStore
from nodes.errors import ArtifactRefused

PIECE_TIMEOUT_S = 30.0
MAX_TRIES = 5
REPORT_S = 0.5


class StreamGone(Exception):
    """The session ended; what has arrived stays, and the next session goes on from there."""


class Fetcher:
    """One blob at a time, one piece at a time.

    Args:
        store: Where pieces go.
        send: Queues an event for the gateway; raises StreamGone where there is no session.
    """

    def __init__(self, store: ModelStore, send: Callable[[m.Event], Awaitable[None]]) -> None:
        self._store = store
        self._send = send
        self._pace = Pace()
        self._waiting: tuple[str, int, asyncio.Future[bytes]] | None = None

    def take(self, chunk: m.ModelChunk) -> None:
        """A piece came; one that nobody waits for is dropped."""
        if self._waiting is None:
            return
        sha256, offset, answer = self._waiting
        if (chunk.sha256, chunk.offset) == (sha256, offset) and not answer.done():
            answer.set_result(chunk.data)

    def break_off(self) -> None:
        """The session is over."""
        self._pace = Pace()
        if self._waiting is not None and not self._waiting[2].done():
            self._waiting[2].set_exception(StreamGone())

    async def fetch(self, manifest: Manifest, progress: Callable[[int], Awaitable[None]]) -> None:
        """Bring all blobs of a model here.

        Args:
            progress: Told what has arrived, every now and then.

        Raises:
            StreamGone, ArtifactRefused.
        """
        told_s, whole = 0.0, 0
        for file in {file.sha256: file for file in manifest.files}.values():
            while not await asyncio.to_thread(self._store.has, file.sha256):
                arrived = await self._piece(file)
                if time.monotonic() - told_s > REPORT_S:
                    told_s = time.monotonic()
                    await progress(whole + arrived)
            whole += file.size_bytes

    async def _piece(self, file: FileEntry) -> int:
        """Fetch the next piece of a blob; the last one gives the blob its name. Returns what has arrived of it."""
        offset = await asyncio.to_thread(self._store.arrived, file.sha256)
        if offset > file.size_bytes:
            raise ArtifactRefused("ARTIFACT_INVALID", f"{file.path} is longer than its manifest says.")
        if offset < file.size_bytes:
            length = min(self._pace.piece_bytes, file.size_bytes - offset)
            data = await self._ask(file.sha256, offset, length)
            if not 0 < len(data) <= length:
                raise ArtifactRefused("MODEL_FAILED", "The gateway does not have the model's files.")
            await asyncio.to_thread(self._store.append, file.sha256, offset, data)
            offset += len(data)
        if offset == file.size_bytes:
            await asyncio.to_thread(self._store.finish, file.sha256)
        return offset

    async def _ask(self, sha256: str, offset: int, length: int) -> bytes:
        for _ in range(MAX_TRIES):
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting = sha256, offset, answer
            asked_s = time.monotonic()
            try:
                await self._send(m.ChunkWanted(sha256, offset, length))
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    data = await answer
            except TimeoutError:
                continue
            finally:
                self._waiting = None
            if length == self._pace.piece_bytes:
                self._pace.observe(time.monotonic() - asked_s)
            return data
        raise ArtifactRefused("MODEL_FAILED", "The gateway did not send the model's files.")
