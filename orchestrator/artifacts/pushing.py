"""Pushes a folder through a client: only what the gateway does not have, going on where an earlier push broke off."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.artifacts.folder import ModelFolder
from orchestrator.artifacts.types import Missing
from orchestrator.client.models import PushedModel, PushOutcome
from orchestrator.errors import RequestError

CHUNK_BYTES = 512 * 1024
POLL_S = 0.1
# The gateway may ask again for what another push took away meanwhile, but not for ever.
MAX_ROUNDS = 3


class Gateway(Protocol):
    """What pushing needs of a client."""

    def push_model(self, folder: ModelFolder, nodes: Sequence[str]) -> PushOutcome: ...
    def put_chunk(self, sha256: str, size_bytes: int, offset: int, data: bytes) -> int: ...
    def pushed_models(self) -> tuple[PushedModel, ...]: ...


def push(client: Gateway, folder: ModelFolder, nodes: Sequence[str], *, sent: Callable[[int], None]) -> PushedModel:
    """Send what is missing and put the model in force.

    Args:
        sent: Told the bytes of every chunk that was sent.

    Raises:
        EdgewiseError: What the gateway refuses.
    """
    for _ in range(MAX_ROUNDS):
        outcome = client.push_model(folder, nodes)
        if outcome.model is not None:
            return outcome.model
        for blob in outcome.missing:
            _send(client, folder, blob, sent)
    raise RequestError("ARTIFACT_INVALID", "The files changed while they were sent; try again.")


def _send(client: Gateway, folder: ModelFolder, blob: Missing, sent: Callable[[int], None]) -> None:
    size_bytes = next(file.size_bytes for file in folder.manifest.files if file.sha256 == blob.sha256)
    offset = blob.offset
    for data in folder.chunks(blob.sha256, offset, CHUNK_BYTES):
        offset = client.put_chunk(blob.sha256, size_bytes, offset, data)
        sent(len(data))


def wait_served(client: Gateway, name: str, *, timeout_s: float) -> PushedModel | None:
    """How the model stands once no node that is there is still busy with it, or time is up; None where it is gone."""
    until_s = time.monotonic() + timeout_s
    while True:
        found = next((model for model in client.pushed_models() if model.name == name), None)
        if found is None or not found.under_way or time.monotonic() > until_s:
            return found
        time.sleep(POLL_S)
