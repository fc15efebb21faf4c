"""Reading what was settled, in pages, so that those who spend now never wait long."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreCorrupt
from orchestrator.store.records import Settlement
from orchestrator.store.service import Store

PAGE_ROWS = 1000


async def pages(store: Store, since_unix_s: float, until_unix_s: float) -> AsyncIterator[list[Settlement]]:
    """Settlements of a span of time, the oldest first; others' steps run in between.

    Raises:
        StoreCorrupt: A row is not what was written; the books go on.
    """
    after = 0
    while True:
        start = after

        def step(desk: Desk, start: int = start) -> list[tuple[int, Settlement]] | StoreCorrupt:
            try:
                return desk.page(start, since_unix_s=since_unix_s, until_unix_s=until_unix_s, rows=PAGE_ROWS)
            except StoreCorrupt as error:
                # A bad row of the past is for its reader, not for those who spend now.
                return error

        found = await store.run(step, aside=True)
        if isinstance(found, StoreCorrupt):
            raise found
        if not found:
            return
        yield [row for _, row in found]
        after = found[-1][0]
