"""What a store must do. `tests/contract/test_stores.py` holds every implementation to it.

A `Desk` is one transaction at a time over one connection, used by one thread; everything between `begin` and `commit`
is kept together or not at all, and what was committed survives a crash if `durable`. `orchestrator.store.service`
puts many callers' steps into one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.store.records import Amounts, Balance, Claim, Claimed, Key, Meter, Posting, Quota, Settlement, Short


class Desk(Protocol):
    """One store's transaction.

    Raises, all methods:
        StoreError: Nothing since `begin` is kept.
    """

    @property
    def durable(self) -> bool:
        """Whether what was committed survives the process."""

    # ---- transactions

    def begin(self) -> None:
        """Start a transaction."""

    def commit(self) -> None:
        """Keep everything since `begin`; returns when it is safe. Blocks: one disk sync."""

    def rollback(self) -> None:
        """Forget everything since `begin`."""

    def close(self) -> None:
        """Leave; what was not committed is forgotten."""

    # ---- budgets

    def reserve(self, holder: str, wants: Amounts) -> Short | None:
        """Hold all the amounts for `holder`, or none of them."""

    def settle(self, posting: Posting) -> None:
        """Give holds back, spend, write down; must not refuse: what is spent is spent."""

    def renew(self, holder: str, until_unix_s: float) -> None:
        """The holder's holds are good until then."""

    def expire(self, now_unix_s: float, *, charge: bool) -> Mapping[Meter, float]:
        """End the holds of holders whose lease ran out: `charge` counts them as spent. Returns what was held."""

    def left(self, meter: Meter) -> float:
        """What could still be reserved on a meter; infinite where its scope has no limit."""

    def balances(self) -> Sequence[Balance]:
        """All meters that have counted something."""

    def quotas(self) -> Mapping[str, Quota]:
        """Quotas by scope."""

    def put_quota(self, scope: str, quota: Quota | None) -> None:
        """Set a scope's quota; None takes it away."""

    # ---- keys

    def keys(self) -> Sequence[Key]:
        """All keys, revoked ones as well."""

    def put_key(self, key: Key) -> None:
        """Add or replace a key."""

    # ---- requests by idempotency id

    def claim(self, claim: Claim, now_unix_s: float) -> tuple[Claimed, bytes]:
        """Take a request id; the stored result where it is DONE, b"" otherwise."""

    # ---- history

    def page(self, after: int, *, since_unix_s: float, until_unix_s: float, rows: int) -> list[tuple[int, Settlement]]:
        """Settlements of a time span by rising number, at most `rows`, those after number `after`."""

    def prune(self, before_unix_s: float, *, rows: int) -> int:
        """Forget at most `rows` settlements and results from before then; returns how many."""
