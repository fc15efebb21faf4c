"""The store of several gateways: PostgreSQL. The same contract; what is held and spent is decided by the database.

A meter has one row that every transaction locks before it looks, in one order, so that two gateways cannot both take
what is left. The server must keep `fsync` and `synchronous_commit` on, which is its default; this is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
from psycopg import errors as pg

from orchestrator.store.books import DUST_FRACTION
from orchestrator.store.errors import StoreCorrupt, StoreFailed, StoreFull, StoreNewer
from orchestrator.store.memory import judge
from orchestrator.store.records import (
    Amounts,
    Balance,
    Claim,
    Claimed,
    Key,
    Meter,
    Posting,
    Quota,
    Settlement,
    Short,
)
from orchestrator.store.sqlite_rows import claim_row, key_row, opened, settlement_of, settlement_row

P = ParamSpec("P")
T = TypeVar("T")

# Of the tables below; a gateway that does not know a store's version leaves it alone.
VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS quotas(scope text PRIMARY KEY, request_j float8, day_j float8, mean_w float8,
    day_tokens bigint);
CREATE TABLE IF NOT EXISTS meters(scope text, unit text, "window" bigint, spent float8 NOT NULL DEFAULT 0,
    assumed float8 NOT NULL DEFAULT 0, PRIMARY KEY(scope, unit, "window"));
CREATE TABLE IF NOT EXISTS held(holder text, scope text, unit text, "window" bigint, amount float8 NOT NULL,
    PRIMARY KEY(holder, scope, unit, "window"));
CREATE TABLE IF NOT EXISTS leases(holder text PRIMARY KEY, until_unix_s float8 NOT NULL);
CREATE TABLE IF NOT EXISTS keys(key_id text PRIMARY KEY, digest bytea, tenant text, role text, created_unix_s float8,
    expires_unix_s float8, revoked_unix_s float8, sum bytea NOT NULL);
CREATE TABLE IF NOT EXISTS claims(tenant text, request_id text, fingerprint bytea, until_unix_s float8, result bytea,
    sum bytea NOT NULL, PRIMARY KEY(tenant, request_id));
CREATE TABLE IF NOT EXISTS settlements(number bigserial PRIMARY KEY, at_unix_s float8, request_id text, tenant text,
    key_id text, task text, outcome text, arms text, energy_j float8, provenance text, reserved_j float8, tokens bigint,
    sum bytea NOT NULL);
"""
LOCK = (
    'INSERT INTO meters(scope, unit, "window") VALUES(%s, %s, %s)'
    ' ON CONFLICT (scope, unit, "window") DO UPDATE SET scope = excluded.scope RETURNING spent'
)
SPENT_OF_METER = 'SELECT spent FROM meters WHERE scope = %s AND unit = %s AND "window" = %s'
SUM_HELD_OF_METER = 'SELECT coalesce(sum(amount), 0) FROM held WHERE scope = %s AND unit = %s AND "window" = %s'
SUM_HELD = 'SELECT scope, unit, "window", sum(amount) FROM held GROUP BY scope, unit, "window"'
HOLD = (
    'INSERT INTO held AS h VALUES(%s, %s, %s, %s, %s) ON CONFLICT (holder, scope, unit, "window")'
    " DO UPDATE SET amount = h.amount + excluded.amount"
)
LOWER = 'UPDATE held SET amount = amount - %s WHERE holder = %s AND scope = %s AND unit = %s AND "window" = %s'
DROP_DUST = 'DELETE FROM held WHERE holder = %s AND scope = %s AND unit = %s AND "window" = %s AND amount <= %s'
END_HOLDS = (
    "DELETE FROM held WHERE holder NOT IN (SELECT holder FROM leases WHERE until_unix_s > %s)"
    ' RETURNING scope, unit, "window", amount'
)
SPEND = 'UPDATE meters SET spent = spent + %s WHERE scope = %s AND unit = %s AND "window" = %s'
ASSUME = 'UPDATE meters SET spent = spent + %s, assumed = assumed + %s WHERE scope = %s AND unit = %s AND "window" = %s'
SETTLE = (
    "INSERT INTO settlements(at_unix_s, request_id, tenant, key_id, task, outcome, arms, energy_j, provenance,"
    " reserved_j, tokens, sum) VALUES(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
KEEP_CLAIM = (
    "INSERT INTO claims VALUES(%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, request_id) DO UPDATE SET"
    " fingerprint = excluded.fingerprint, until_unix_s = excluded.until_unix_s, result = excluded.result,"
    " sum = excluded.sum"
)
PAGE = "SELECT * FROM settlements WHERE number > %s AND at_unix_s >= %s AND at_unix_s < %s ORDER BY number LIMIT %s"
PRUNE_SETTLEMENTS = (
    "DELETE FROM settlements WHERE number IN (SELECT number FROM settlements WHERE at_unix_s < %s LIMIT %s)"
)
PRUNE_CLAIMS = "DELETE FROM claims WHERE ctid IN (SELECT ctid FROM claims WHERE until_unix_s < %s LIMIT %s)"
PRUNE_METER = (
    'DELETE FROM meters WHERE scope = %s AND unit = %s AND "window" = %s AND NOT EXISTS'
    ' (SELECT 1 FROM held WHERE scope = %s AND unit = %s AND "window" = %s)'
)
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_MS = 5000


def _translated(method: Callable[P, T]) -> Callable[P, T]:
    """Errors of the server as errors of a store."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (pg.DiskFull, pg.OutOfMemory, pg.DeadlockDetected, pg.LockNotAvailable):
            # Nothing was kept and the next try may succeed.
            raise StoreFull from None
        except (pg.DataCorrupted, pg.IndexCorrupted) as error:
            raise StoreCorrupt(type(error).__name__) from error
        except psycopg.Error as error:
            raise StoreFailed from error

    return call


class PostgresDesk:
    """The contract on one connection to a PostgreSQL server.

    Args:
        conninfo: Where it is, as libpq writes it.

    Raises:
        StoreFailed: It cannot be reached, or it does not sync what it commits.
        StoreNewer: A newer Edgewise made its tables.
    """

    durable = True

    @_translated
    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        # A database of another encoding would otherwise hand text out as bytes.
        self._connection.execute("SET client_encoding = 'UTF8'")
        self._connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        for setting in ("fsync", "synchronous_commit"):
            row = self._connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            if row is None or row[0] == "off":
                self._connection.close()
                raise StoreFailed
        with self._connection.transaction():
            # Two gateways that start at once would otherwise both find a table missing.
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (0x45444757,))
            self._connection.execute(SCHEMA)
            self._check_version()

    def _check_version(self) -> None:
        self._do("INSERT INTO meta VALUES('schema', %s) ON CONFLICT DO NOTHING", (str(VERSION),))
        ((found,),) = self._all("SELECT value FROM meta WHERE name = 'schema'")
        if int(found) > VERSION:
            raise StoreNewer(int(found), VERSION)

    # ---- transactions

    @_translated
    def begin(self) -> None:
        """See the contract."""
        self._connection.execute("BEGIN")

    @_translated
    def commit(self) -> None:
        """See the contract."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """See the contract."""
        with contextlib.suppress(psycopg.Error):
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """See the contract."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def _do(self, query: str, values: Sequence[Any] = ()) -> int:
        return self._connection.execute(query, values).rowcount

    # ---- budgets

    @_translated
    def reserve(self, holder: str, wants: Amounts) -> Short | None:
        """See the contract."""
        quotas = self._quotas([meter.scope for meter in wants])
        for meter in sorted(wants):
            ((spent,),) = self._all(LOCK, meter)
            ((held,),) = self._all(SUM_HELD_OF_METER, meter)
            limit = quotas.get(meter.scope, Quota()).limit(meter.unit)
            left = limit - spent - held
            if not wants[meter] <= left:
                return Short(meter, limit, left)
        for meter, amount in wants.items():
            self._do(HOLD, (holder, *meter, amount))
        return None

    @_translated
    def settle(self, posting: Posting) -> None:
        """See the contract."""
        for meter in sorted({*posting.releases, *posting.spends}):
            self._all(LOCK, meter)
            self._do(SPEND, (posting.spends.get(meter, 0.0), *meter))
            self._unhold(posting.holder, meter, posting.releases.get(meter, 0.0))
        for record in posting.records:
            self._do(SETTLE, settlement_row(record))
        if posting.claim is not None:
            self._close_claim(posting.claim, posting.result)

    def _unhold(self, holder: str, meter: Meter, amount: float) -> None:
        if amount <= 0.0:
            return
        self._do(LOWER, (amount, holder, *meter))
        dust = DUST_FRACTION * amount
        self._do(DROP_DUST, (holder, *meter, dust))

    def _close_claim(self, claim: Claim, result: bytes | None) -> None:
        if result is None:
            name = (claim.tenant, claim.request_id)
            self._do("DELETE FROM claims WHERE tenant = %s AND request_id = %s", name)
        else:
            self._keep_claim(claim, result)

    def _keep_claim(self, claim: Claim, result: bytes | None) -> None:
        self._do(KEEP_CLAIM, claim_row(claim, result))

    @_translated
    def renew(self, holder: str, until_unix_s: float) -> None:
        """See the contract."""
        self._do(
            "INSERT INTO leases VALUES(%s, %s) ON CONFLICT (holder) DO UPDATE SET until_unix_s = excluded.until_unix_s",
            (holder, until_unix_s),
        )

    @_translated
    def expire(self, now_unix_s: float, *, charge: bool) -> Mapping[Meter, float]:
        """See the contract."""
        ended: dict[Meter, float] = {}
        for scope, unit, window, amount in self._all(END_HOLDS, (now_unix_s,)):
            meter = Meter(scope, unit, window)
            ended[meter] = ended.get(meter, 0.0) + amount
        for meter in sorted(ended) if charge else ():
            self._all(LOCK, meter)
            amount = ended[meter]
            self._do(ASSUME, (amount, amount, *meter))
        self._do("DELETE FROM leases WHERE until_unix_s <= %s", (now_unix_s,))
        return ended

    @_translated
    def left(self, meter: Meter) -> float:
        """See the contract."""
        limit = self._quotas([meter.scope]).get(meter.scope, Quota()).limit(meter.unit)
        spent = self._all(SPENT_OF_METER, meter)
        ((held,),) = self._all(SUM_HELD_OF_METER, meter)
        return limit - float(spent[0][0] if spent else 0.0) - float(held)

    @_translated
    def balances(self) -> Sequence[Balance]:
        """See the contract."""
        held = {Meter(*row[:3]): row[3] for row in self._all(SUM_HELD)}
        rows = self._all('SELECT scope, unit, "window", spent, assumed FROM meters')
        counted = {Meter(*row[:3]): row[3:] for row in rows}
        quotas = self._quotas()
        balances = []
        for meter in sorted(counted.keys() | held.keys()):
            spent, assumed = counted.get(meter, (0.0, 0.0))
            limit = quotas.get(meter.scope, Quota()).limit(meter.unit)
            balances.append(Balance(meter, limit, spent, held.get(meter, 0.0), assumed))
        return balances

    @_translated
    def quotas(self) -> Mapping[str, Quota]:
        """See the contract."""
        return self._quotas()

    def _quotas(self, scopes: Sequence[str] | None = None) -> dict[str, Quota]:
        query = "SELECT scope, request_j, day_j, mean_w, day_tokens FROM quotas"
        rows = self._all(query) if scopes is None else self._all(f"{query} WHERE scope = ANY(%s)", (list(scopes),))
        return {row[0]: Quota(*row[1:]) for row in rows}

    @_translated
    def put_quota(self, scope: str, quota: Quota | None) -> None:
        """See the contract."""
        self._do("DELETE FROM quotas WHERE scope = %s", (scope,))
        if quota is not None:
            row = (scope, quota.request_j, quota.day_j, quota.mean_w, quota.day_tokens)
            self._do("INSERT INTO quotas VALUES(%s, %s, %s, %s, %s)", row)

    # ---- keys and requests

    @_translated
    def keys(self) -> Sequence[Key]:
        """See the contract."""
        return [Key(*opened("keys", row)) for row in self._all("SELECT * FROM keys")]

    @_translated
    def put_key(self, key: Key) -> None:
        """See the contract."""
        self._do("DELETE FROM keys WHERE key_id = %s", (key.key_id,))
        self._do("INSERT INTO keys VALUES(%s, %s, %s, %s, %s, %s, %s, %s)", key_row(key))

    @_translated
    def claim(self, claim: Claim, now_unix_s: float) -> tuple[Claimed, bytes]:
        """See the contract."""
        # Two gateways may be asked at once: the first to insert has it, the other waits for that transaction.
        fresh = self._do(
            "INSERT INTO claims VALUES(%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", claim_row(claim, None)
        )
        if fresh:
            return Claimed.NEW, b""
        query = "SELECT * FROM claims WHERE tenant = %s AND request_id = %s FOR UPDATE"
        rows = self._all(query, (claim.tenant, claim.request_id))
        found = None
        if rows:
            *fields, result = opened("claims", rows[0])
            found = (Claim(*fields), result)
        verdict = judge(claim, found, now_unix_s)
        if verdict is Claimed.NEW:
            self._keep_claim(claim, None)
        return verdict, (found[1] or b"") if found and verdict is Claimed.DONE else b""

    # ---- history

    @_translated
    def page(self, after: int, *, since_unix_s: float, until_unix_s: float, rows: int) -> list[tuple[int, Settlement]]:
        """See the contract."""
        found = self._all(PAGE, (after, since_unix_s, until_unix_s, rows))
        return [(row[0], settlement_of(row[1:])) for row in found]

    @_translated
    def prune(self, before_unix_s: float, *, rows: int) -> int:
        """See the contract."""
        self._prune_meters(before_unix_s)
        bounds = (before_unix_s, rows)
        return self._do(PRUNE_SETTLEMENTS, bounds) + self._do(PRUNE_CLAIMS, bounds)

    def _prune_meters(self, before_unix_s: float) -> None:
        for row in self._all('SELECT scope, unit, "window" FROM meters'):
            meter = Meter(*row)
            if meter.resets_unix_s <= before_unix_s:
                self._do(PRUNE_METER, (*meter, *meter))
