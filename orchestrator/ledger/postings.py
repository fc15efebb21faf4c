"""How settlements reach the store: at once where somebody waits, together where nobody does, later where the disk is
full. What is spent is spent: a posting is never dropped because it could not be written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreError, StoreFull
from orchestrator.store.records import Posting, Settlement
from orchestrator.store.service import Store

log = structlog.get_logger("ledger")

# What no budget depends on is written so long after its end at most, or so many at a time.
BEHIND_S = 0.1
BEHIND_ROWS = 256
# What the store can write on the caller's stack.
BRIEF_ROWS = 16
T = TypeVar("T")


class Postings:
    """Postings on their way.

    Args:
        store: Where they go.
        holder: Whose they are.
    """

    def __init__(self, store: Store, holder: str) -> None:
        self._store, self._holder = store, holder
        self.owed: list[Posting] = []
        self._behind: list[Settlement] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._followed: set[asyncio.Future[Any]] = set()

    def keep(
        self,
        postings: Sequence[Posting],
        step: Callable[[Desk], T] | None = None,
        *,
        others: int = 0,
        then: Callable[[bool], None] | None = None,
    ) -> asyncio.Future[T]:
        """Write postings down now; done once they are kept.

        Args:
            postings: All of them or none.
            step: Writes them and tells something; None writes them.
            others: How many more will soon come of what runs already.
            then: Told whether they are kept, even where the caller has left.
        """
        settling: asyncio.Future[Any] = self._store.run(
            step or _writing(postings),
            others=others,
            aside=sum([len(posting.records) for posting in postings]) > BRIEF_ROWS,
            told=partial(self._settled, postings, then),
        )
        return settling

    def follow(self, running: asyncio.Future[T]) -> asyncio.Future[T]:
        """Have `drained` wait for it."""
        self._followed.add(running)
        running.add_done_callback(self._followed.discard)
        return running

    def _settled(
        self, postings: Sequence[Posting], then: Callable[[bool], None] | None, error: StoreError | None
    ) -> None:
        if error is not None:
            if isinstance(error, StoreFull):
                self.owed += postings
            log.error("ledger.not_settled", error=type(error).__name__, owed=len(self.owed))
        if then is not None:
            then(error is None)

    def write_behind(self, record: Settlement) -> None:
        """Write down, together with others, what no budget depends on."""
        if not self._behind:
            self._flushing = asyncio.get_running_loop().call_later(BEHIND_S, self.flush)
        self._behind.append(record)
        if len(self._behind) >= BEHIND_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write now what is behind."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        noted, self._behind = self._behind, []
        if noted:
            self.keep([Posting(self._holder, {}, {}, noted=noted)])

    async def pay_owed(self) -> None:
        """Write down what the disk had no room for.

        Raises:
            StoreError: It still has none.
        """
        owed, self.owed = self.owed, []
        try:
            await self._store.run(_writing(owed), aside=True)
        except StoreError:
            self.owed = owed + self.owed
            raise

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        self.flush()
        # The store keeps to the order of what comes: what was handed over before this is answered before it.
        self.follow(self._store.run(_writing(()), told=_nobody))
        while self._followed:
            await asyncio.wait(self._followed)
            # What the store has just held comes back in callbacks.
            await asyncio.sleep(0)


def _nobody(error: StoreError | None) -> None:
    """Whoever had a step of their own has been told."""


def _writing(postings: Sequence[Posting]) -> Callable[[Desk], None]:
    def step(desk: Desk) -> None:
        for posting in postings:
            desk.settle(posting)

    return step
