"""Who sleeps, on the disk: a gateway that is started again must still know whom it can wake."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from orchestrator.durable import save_json
from orchestrator.errors import RequestError
from orchestrator.fleet.dormitory import Dormitory
from orchestrator.fleet.wire import read_hello
from orchestrator.types import NodeHello

log = structlog.get_logger("sleep")


class SleepRegister:
    """What sleepers said of themselves, and since when they sleep.

    Args:
        file: Where it is kept; None keeps nothing.
        clock_unix_s: Time of day, which outlives the process.
    """

    def __init__(self, file: Path | None = None, *, clock_unix_s: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock_unix_s = clock_unix_s
        self._kept: frozenset[str] = frozenset()

    def read(self) -> list[tuple[NodeHello, float]]:
        """Each sleeper, and for how many seconds it has slept; one that cannot be read is told and left out."""
        if self._file is None or not self._file.exists():
            return []
        try:
            entries = dict(json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            log.error("sleep.register_unreadable", file=str(self._file), why=type(error).__name__)
            return []
        self._kept = frozenset(entries)
        return [*self._sleepers(entries)]

    def _sleepers(self, entries: dict[str, Any]) -> Iterator[tuple[NodeHello, float]]:
        for node, entry in entries.items():
            try:
                hello = read_hello(base64.b64decode(entry["hello"], validate=True))
                slept_s = max(0.0, self._clock_unix_s() - float(entry["asleep_unix_s"]))
            except (KeyError, TypeError, ValueError, RequestError) as error:
                log.error("sleep.sleeper_unreadable", node=node, why=type(error).__name__)
                continue
            yield hello, slept_s

    def keep(self, dormitory: Dormitory) -> None:
        """Write down who sleeps now, if that has changed."""
        names = frozenset(dormitory.sleepers)
        if self._file is None or names == self._kept:
            return
        now_s, now_unix_s = dormitory.clock(), self._clock_unix_s()
        held = {
            node: {
                "hello": base64.b64encode(sleeper.hello.announced).decode(),
                "asleep_unix_s": now_unix_s - (now_s - sleeper.asleep_s),
            }
            for node, sleeper in dormitory.sleepers.items()
        }
        try:
            save_json(self._file, held, private=True, indent=None)
            self._kept = names
        except OSError as error:
            log.error("sleep.register_not_kept", file=str(self._file), why=str(error))
