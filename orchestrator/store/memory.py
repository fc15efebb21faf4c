"""A store that forgets: for gateways without a state folder, and the fake of every test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.store.books import Books
from orchestrator.store.records import Amounts, Balance, Claim, Claimed, Key, Meter, Posting, Quota, Settlement, Short

MAX_SETTLEMENTS = 100_000
MAX_CLAIMS = 100_000


@dataclass
class _State:
    books: Books = field(default_factory=Books)
    keys: dict[str, Key] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[Claim, bytes | None]] = field(default_factory=dict)
    settlements: dict[int, Settlement] = field(default_factory=dict)
    written: int = 0


class MemoryDesk:
    """The contract in plain dictionaries; the oldest settlements and results are forgotten first.

    Args:
        undo: Keep what `rollback` needs; without it `rollback` changes nothing, which is enough where nothing fails.
    """

    durable = False

    def __init__(self, *, undo: bool = False) -> None:
        self._state = _State()
        self._undo = undo
        self._before: _State | None = None

    @property
    def books(self) -> Books:
        """The balances, to look at."""
        return self._state.books

    def begin(self) -> None:
        """Start."""
        self._before = copy.deepcopy(self._state) if self._undo else None

    def commit(self) -> None:
        """Keep."""
        self._before = None
        self._state.books.touched_spent.clear()
        self._state.books.touched_held.clear()

    def rollback(self) -> None:
        """Forget what happened since `begin`."""
        if self._before is not None:
            self._state, self._before = self._before, None

    def close(self) -> None:
        """Nothing to leave."""

    def reserve(self, holder: str, wants: Amounts) -> Short | None:
        """See the contract."""
        return self._state.books.reserve(holder, wants)

    def settle(self, posting: Posting) -> None:
        """See the contract."""
        state = self._state
        state.books.post(posting.holder, posting.releases, posting.spends)
        for record in posting.records:
            state.written += 1
            state.settlements[state.written] = record
            if len(state.settlements) > MAX_SETTLEMENTS:
                state.settlements.pop(next(iter(state.settlements)))
        if posting.claim is not None:
            name = (posting.claim.tenant, posting.claim.request_id)
            if posting.result is None:
                state.claims.pop(name, None)
            else:
                state.claims[name] = (posting.claim, posting.result)

    def renew(self, holder: str, until_unix_s: float) -> None:
        """See the contract."""
        self._state.books.renew(holder, until_unix_s)

    def expire(self, now_unix_s: float, *, charge: bool) -> Mapping[Meter, float]:
        """See the contract."""
        return self._state.books.expire(now_unix_s, charge=charge)

    def left(self, meter: Meter) -> float:
        """See the contract."""
        return self._state.books.left(meter)

    def balances(self) -> Sequence[Balance]:
        """See the contract."""
        return list(self._state.books.balances())

    def quotas(self) -> Mapping[str, Quota]:
        """See the contract."""
        return dict(self._state.books.quotas)

    def put_quota(self, scope: str, quota: Quota | None) -> None:
        """See the contract."""
        if quota is None:
            self._state.books.quotas.pop(scope, None)
        else:
            self._state.books.quotas[scope] = quota

    def keys(self) -> Sequence[Key]:
        """See the contract."""
        return list(self._state.keys.values())

    def put_key(self, key: Key) -> None:
        """See the contract."""
        self._state.keys[key.key_id] = key

    def claim(self, claim: Claim, now_unix_s: float) -> tuple[Claimed, bytes]:
        """See the contract."""
        claims = self._state.claims
        name = (claim.tenant, claim.request_id)
        found = claims.get(name)
        verdict = judge(claim, found, now_unix_s)
        if verdict is Claimed.NEW:
            claims[name] = (claim, None)
            if len(claims) > MAX_CLAIMS:
                claims.pop(next(iter(claims)))
        return verdict, (found[1] or b"") if found and verdict is Claimed.DONE else b""

    def page(self, after: int, *, since_unix_s: float, until_unix_s: float, rows: int) -> list[tuple[int, Settlement]]:
        """See the contract."""
        found = (
            (number, row)
            for number, row in self._state.settlements.items()
            if number > after and since_unix_s <= row.at_unix_s < until_unix_s
        )
        return [pair for pair, _ in zip(found, range(rows), strict=False)]

    def prune(self, before_unix_s: float, *, rows: int) -> int:
        """See the contract."""
        state = self._state
        state.books.prune(before_unix_s)
        old = [number for number, row in state.settlements.items() if row.at_unix_s < before_unix_s][:rows]
        for number in old:
            del state.settlements[number]
        stale = [name for name, (claim, _) in state.claims.items() if claim.until_unix_s < before_unix_s][:rows]
        for name in stale:
            del state.claims[name]
        return len(old) + len(stale)


def judge(claim: Claim, found: tuple[Claim, bytes | None] | None, now_unix_s: float) -> Claimed:
    """What a request id is, given what was stored under it."""
    if found is None:
        return Claimed.NEW
    earlier, result = found
    if earlier.fingerprint != claim.fingerprint:
        return Claimed.REUSED
    if result is not None:
        return Claimed.DONE
    return Claimed.RUNNING if now_unix_s < earlier.until_unix_s else Claimed.NEW
