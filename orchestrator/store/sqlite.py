"""The store of one gateway: SQLite in WAL mode with synchronous=FULL, so that what was committed survives power loss.

Balances, quotas and keys are small and live in memory as well: a transaction changes them there and writes what it
touched. Every row carries a checksum, because a flipped bit in a page passes SQLite's own checks in most cases.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import apsw

from orchestrator.store import sqlite_rows as rows_of
from orchestrator.store.books import Books
from orchestrator.store.errors import StoreCorrupt, StoreUnsafe
from orchestrator.store.files import before_migration, copy_store, locked, set_aside, translated
from orchestrator.store.memory import judge
from orchestrator.store.records import Amounts, Balance, Claim, Claimed, Key, Meter, Posting, Quota, Settlement, Short
from orchestrator.store.schema import VERSION, bring_up_to_date, version_of
from orchestrator.store.sqlite_batch import Batch, Write

BUSY_MS = 2000
# Versions in which a write to a WAL that was just reset can corrupt the database; two branches were mended.
DEFECT_SINCE, DEFECT_UNTIL = (3, 7, 0), (3, 51, 2)
MENDED = ((3, 44, 6), (3, 50, 7))
SAFE_SYNCHRONOUS = "FULL"

P = ParamSpec("P")
T = TypeVar("T")


def is_safe(version: str) -> bool:
    """Whether a version of SQLite is free of the WAL-reset defect."""
    parts = tuple(int(part) for part in version.split("."))[:3]
    if any(parts[:2] == mended[:2] and parts >= mended for mended in MENDED):
        return True
    return not DEFECT_SINCE <= parts <= DEFECT_UNTIL


def _translated(method: Callable[P, T]) -> Callable[P, T]:
    """Errors of SQLite as errors of a store."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with translated():
            return method(*args, **kwargs)

    return call


class SqliteDesk:
    """The contract on one SQLite file.

    Args:
        path: The file; made where there is none.
        vfs: Name of the file system that SQLite uses; "" for the operating system's, with a lock against other
            gateways.
        synchronous: FULL; anything less loses what was acknowledged when the power goes, and is for the tests that
            show that it does.

    Raises:
        StoreUnsafe: This SQLite can corrupt databases.
        StoreInUse: Another gateway has the file.
        StoreCorrupt: It is damaged; a copy was put aside.
        StoreNewer: A newer Edgewise wrote it.
        StoreFailed, StoreFull: The disk fails.
    """

    durable = True

    def __init__(self, path: Path, *, vfs: str = "", synchronous: str = SAFE_SYNCHRONOUS) -> None:
        if not is_safe(apsw.sqlite_lib_version()):
            raise StoreUnsafe(apsw.sqlite_lib_version())
        self._path = path
        self._lock = None if vfs else locked(path)
        if self._lock is not None:
            path.touch(mode=0o600)
        try:
            self._connect(vfs, synchronous)
            self._load()
        except StoreCorrupt as error:
            copy = "" if vfs else str(set_aside(path, "damaged"))
            self.close()
            raise StoreCorrupt(error.what, copy) from error
        except BaseException:
            self.close()
            raise

    @_translated
    def _connect(self, vfs: str, synchronous: str) -> None:
        self._connection = apsw.Connection(str(self._path), vfs=vfs or None)
        connection = self._connection
        connection.set_busy_timeout(BUSY_MS)
        if vfs:
            connection.pragma("locking_mode", "exclusive")
        found = version_of(connection)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", synchronous)
        if connection.pragma("quick_check") != "ok":
            raise StoreCorrupt("quick_check")
        if 0 < found < VERSION and not vfs:
            copy_store(self._path, before_migration(self._path, found), every_row=False)
        bring_up_to_date(connection, found)
        self._batch = Batch(connection)

    @_translated
    def _load(self) -> None:
        connection = self._connection
        books = self._books = Books()
        self._keys: dict[str, Key] = {}
        for scope, *amounts in rows_of.table_rows(connection, "quotas"):
            books.quotas[scope] = Quota(*amounts)
        for scope, unit, window, amount, assumed in rows_of.table_rows(connection, "spent"):
            books.spent[Meter(scope, unit, window)] = amount
            if assumed:
                books.assumed[Meter(scope, unit, window)] = assumed
        for holder, scope, unit, window, amount in rows_of.table_rows(connection, "held"):
            books.held.setdefault(Meter(scope, unit, window), {})[holder] = amount
        books.leases.update(rows_of.table_rows(connection, "leases"))
        for fields in rows_of.table_rows(connection, "keys"):
            self._keys[fields[0]] = Key(*fields)

    # ---- transactions

    def begin(self) -> None:
        """See the contract. Nothing is asked of SQLite until a step reads or writes a table of its own."""

    @_translated
    def commit(self) -> None:
        """See the contract."""
        self._write_touched()
        self._batch.write()
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Forget what happened since `begin`, in the file and in memory."""
        self._batch.clear()
        with contextlib.suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._load()

    def close(self) -> None:
        """Leave the file; its lock goes last."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        """Have a transaction of SQLite that has seen all writes so far."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        self._batch.write()

    def _execute(self, query: str, bindings: Sequence[Any] = ()) -> apsw.Cursor:
        """In the transaction that runs, after whatever was to be written before."""
        self._open()
        return self._connection.execute(query, bindings)

    def _write_touched(self) -> None:
        books, add = self._books, self._batch.add
        for meter in books.touched_spent:
            add(Write.SPEND, rows_of.spent_row(meter, books.spent[meter], books.assumed.get(meter, 0.0)))
        for holder, meter in books.touched_held:
            amount = books.held.get(meter, {}).get(holder)
            if amount is None:
                add(Write.UNHOLD, (holder, *meter))
            else:
                add(Write.HOLD, rows_of.sealed(holder, *meter, amount))
        books.touched_spent.clear()
        books.touched_held.clear()

    # ---- budgets

    def reserve(self, holder: str, wants: Amounts) -> Short | None:
        """See the contract."""
        return self._books.reserve(holder, wants)

    def settle(self, posting: Posting) -> None:
        """See the contract."""
        self._books.post(posting.holder, posting.releases, posting.spends)
        for record in posting.records:
            self._batch.add(Write.SETTLE, rows_of.settlement_row(record))
        if posting.claim is not None:
            self._close_claim(posting.claim, posting.result)

    def _close_claim(self, claim: Claim, result: bytes | None) -> None:
        if result is None:
            self._batch.add(Write.UNCLAIM, (claim.tenant, claim.request_id))
        else:
            self._keep_claim(claim, result)

    def _keep_claim(self, claim: Claim, result: bytes | None) -> None:
        self._batch.add(Write.CLAIM, rows_of.claim_row(claim, result))

    @_translated
    def renew(self, holder: str, until_unix_s: float) -> None:
        """See the contract."""
        self._books.renew(holder, until_unix_s)
        row = rows_of.sealed(holder, float(until_unix_s))
        self._execute("INSERT OR REPLACE INTO leases VALUES(?,?,?)", row)

    @_translated
    def expire(self, now_unix_s: float, *, charge: bool) -> Mapping[Meter, float]:
        """See the contract."""
        before = set(self._books.leases)
        ended = self._books.expire(now_unix_s, charge=charge)
        for holder in before - self._books.leases.keys():
            self._execute("DELETE FROM leases WHERE holder = ?", (holder,))
        return ended

    def left(self, meter: Meter) -> float:
        """See the contract."""
        return self._books.left(meter)

    def balances(self) -> Sequence[Balance]:
        """See the contract."""
        return list(self._books.balances())

    def quotas(self) -> Mapping[str, Quota]:
        """See the contract."""
        return dict(self._books.quotas)

    @_translated
    def put_quota(self, scope: str, quota: Quota | None) -> None:
        """See the contract."""
        if quota is None:
            self._books.quotas.pop(scope, None)
            self._execute("DELETE FROM quotas WHERE scope = ?", (scope,))
            return
        self._books.quotas[scope] = quota
        row = rows_of.quota_row(scope, quota)
        self._execute("INSERT OR REPLACE INTO quotas VALUES(?,?,?,?,?,?)", row)

    # ---- keys and requests

    def keys(self) -> Sequence[Key]:
        """See the contract."""
        return list(self._keys.values())

    @_translated
    def put_key(self, key: Key) -> None:
        """See the contract."""
        self._keys[key.key_id] = key
        self._execute("INSERT OR REPLACE INTO keys VALUES(?,?,?,?,?,?,?,?)", rows_of.key_row(key))

    @_translated
    def claim(self, claim: Claim, now_unix_s: float) -> tuple[Claimed, bytes]:
        """See the contract."""
        found = self._find(claim.tenant, claim.request_id)
        verdict = judge(claim, found, now_unix_s)
        if verdict is Claimed.NEW:
            self._keep_claim(claim, None)
        return verdict, (found[1] or b"") if found and verdict is Claimed.DONE else b""

    def _find(self, tenant: str, request_id: str) -> tuple[Claim, bytes | None] | None:
        query = "SELECT * FROM claims WHERE tenant = ? AND request_id = ?"
        for row in self._execute(query, (tenant, request_id)):
            *fields, result = rows_of.opened("claims", row)
            return Claim(*fields), result
        return None

    # ---- history

    @_translated
    def page(self, after: int, *, since_unix_s: float, until_unix_s: float, rows: int) -> list[tuple[int, Settlement]]:
        """See the contract."""
        bounds = (after, since_unix_s, until_unix_s, rows)
        found = self._execute(rows_of.SELECT_SETTLEMENTS, bounds)
        return [(row[0], rows_of.settlement_of(row[1:])) for row in found]

    @_translated
    def prune(self, before_unix_s: float, *, rows: int) -> int:
        """See the contract."""
        self._open()
        execute = self._connection.execute
        for meter in self._books.prune(before_unix_s):
            execute("DELETE FROM spent WHERE scope = ? AND unit = ? AND window = ?", meter)
        changed = self._connection.total_changes()
        query = "SELECT number, at_unix_s FROM settlements ORDER BY number LIMIT ?"
        # In the order they were written, which is that of time: the search ends at the first that is young enough.
        old = [number for number, at_unix_s in execute(query, (rows,)) if at_unix_s < before_unix_s]
        execute("DELETE FROM settlements WHERE number <= ?", (max(old, default=0),))
        execute(
            "DELETE FROM claims WHERE (tenant, request_id) IN"
            " (SELECT tenant, request_id FROM claims WHERE until_unix_s < ? LIMIT ?)",
            (before_unix_s, rows),
        )
        return self._connection.total_changes() - changed
