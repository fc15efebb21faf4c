"""Which node a user is at home on: chosen once, kept across restarts. Nothing but names is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import structlog

from orchestrator.durable import save_json
from orchestrator.personal.types import Owner

log = structlog.get_logger("personal")

MAX_HOMES = 100_000


class Homes:
    """Home nodes by owner and task.

    Args:
        file: Where they are kept; None keeps them in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._by_owner: dict[str, str] = {}
        if file is not None and file.exists():
            try:
                held = json.loads(file.read_text())
                self._by_owner = {str(key): str(node) for key, node in held.items()}
            except (OSError, ValueError, AttributeError) as error:
                log.error("personal.homes_unreadable", why=type(error).__name__)

    def of(self, owner: Owner, task: str) -> str | None:
        """The owner's home for a task; None where none was chosen yet."""
        return self._by_owner.get(_mark(owner, task))

    def settle(self, owner: Owner, task: str, nodes: Iterable[str]) -> str | None:
        """The owner's home, chosen among these nodes where there is none yet (highest hash, so evenly)."""
        mark = _mark(owner, task)
        home = self._by_owner.get(mark)
        if home is not None:
            return home
        home = max(nodes, key=lambda node: hashlib.sha256(f"{mark} {node}".encode()).digest(), default=None)
        if home is not None and len(self._by_owner) < MAX_HOMES:
            self._by_owner[mark] = home
            self._keep()
        return home

    def forget(self, owner: Owner, task: str) -> None:
        """The owner has no home any more."""
        if self._by_owner.pop(_mark(owner, task), None) is not None:
            self._keep()

    def _keep(self) -> None:
        if self._file is None:
            return
        try:
            save_json(self._file, self._by_owner, private=True, indent=None)
        except OSError as error:
            log.error("personal.homes_not_kept", why=str(error))


def _mark(owner: Owner, task: str) -> str:
    """Tells neither tenant nor user; different pairs never share one."""
    text = f"{len(owner.tenant)}:{owner.tenant}{len(owner.user)}:{owner.user}{task}"
    return hashlib.sha256(text.encode()).hexdigest()
