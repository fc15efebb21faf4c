"""Snapshots of the books while the gateway runs: from time to time, and soon after keys or quotas have changed.

They are what a damaged store is restored from. A revoked key that a restored store does not know of would open the
door again; that is why keys and quotas do not wait for the next hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from orchestrator.config import Ledger
from orchestrator.metrics import Metrics
from orchestrator.store.errors import StoreError
from orchestrator.store.files import copy_store, snapshot_name, snapshots

events = structlog.get_logger("store")

CHECK_S = 5.0
HOUR_S = 3600.0


class Snapshots:
    """Makes snapshots of one SQLite store and forgets old ones.

    Args:
        store: The database.
        terms: How often and how many; asked every time, so that a changed configuration holds at once.
        decisive: What must not wait: keys and quotas as they stand.
        metrics: Told when the last one was made.
        clock_unix_s: Wall time.
    """

    def __init__(
        self,
        store: Path,
        terms: Callable[[], Ledger],
        *,
        decisive: Callable[[], object],
        metrics: Metrics,
        clock_unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._terms = terms
        self._decisive = decisive
        self._metrics = metrics
        self._now = clock_unix_s
        self._seen: object = None
        self._tried_unix_s = -1.0

    async def run(self) -> None:
        """Look every few seconds whether one is due, until cancelled."""
        newest = next(iter(snapshots(self._store)), None)
        if newest is not None:
            self._metrics.snapshot_unix_s = newest.stat().st_mtime
        while True:
            await self.look()
            await asyncio.sleep(CHECK_S)

    async def look(self) -> None:
        """Make a snapshot if one is due."""
        terms, decisive = self._terms(), self._decisive()
        interval_s = terms.snapshot_h * HOUR_S
        since_s = self._now() - max(self._metrics.snapshot_unix_s, self._tried_unix_s)
        if interval_s > 0.0 and (since_s >= interval_s or decisive != self._seen):
            self._tried_unix_s, self._seen = self._now(), decisive
            await asyncio.to_thread(self._take, terms.snapshots)

    def _take(self, keep: int) -> None:
        name = snapshot_name(self._store, self._now())
        try:
            copy_store(self._store, name, every_row=False)
            for old in snapshots(self._store)[keep:]:
                old.unlink(missing_ok=True)
        except (StoreError, OSError) as error:
            # The books go on without; how old the newest is, a metric tells.
            events.error("store.snapshot_failed", why=str(error))
            return
        self._metrics.snapshot_unix_s = self._now()
        events.info("store.snapshot", file=str(name))
