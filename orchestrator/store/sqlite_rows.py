"""How rows look in SQLite: the schema, and every row with its checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.store.errors import StoreCorrupt
from orchestrator.store.records import Claim, Key, Meter, Quota, Settlement, checksum

if TYPE_CHECKING:
    import apsw

# Version 1; what came later is in `orchestrator.store.schema`.
SCHEMA = """
CREATE TABLE IF NOT EXISTS quotas(scope TEXT PRIMARY KEY, request_j REAL, day_j REAL, mean_w REAL, day_tokens INTEGER,
    sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent(scope TEXT, unit TEXT, window INTEGER, amount REAL, assumed REAL, sum BLOB NOT NULL,
    PRIMARY KEY(scope, unit, window)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(holder TEXT, scope TEXT, unit TEXT, window INTEGER, amount REAL, sum BLOB NOT NULL,
    PRIMARY KEY(holder, scope, unit, window)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases(holder TEXT PRIMARY KEY, until_unix_s REAL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys(key_id TEXT PRIMARY KEY, digest BLOB, tenant TEXT, role TEXT, created_unix_s REAL,
    expires_unix_s REAL, revoked_unix_s REAL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims(tenant TEXT, request_id TEXT, fingerprint BLOB, until_unix_s REAL, result BLOB,
    sum BLOB NOT NULL, PRIMARY KEY(tenant, request_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settlements(number INTEGER PRIMARY KEY, at_unix_s REAL, request_id TEXT,
    tenant TEXT, key_id TEXT, task TEXT, outcome TEXT, arms TEXT, energy_j REAL, provenance TEXT, reserved_j REAL,
    tokens INTEGER, sum BLOB NOT NULL);
"""

SETTLEMENT_COLUMNS = (
    "at_unix_s, request_id, tenant, key_id, task, outcome, arms, energy_j, provenance, reserved_j, tokens, sum"
)
SELECT_SETTLEMENTS = (
    f"SELECT number, {SETTLEMENT_COLUMNS} FROM settlements"  # noqa: S608
    " WHERE number > ? AND at_unix_s >= ? AND at_unix_s < ? ORDER BY number LIMIT ?"
)

Row = tuple[Any, ...]


def sealed(*fields: Any) -> Row:
    """A row with its checksum last."""
    return (*fields, checksum(*fields))


def opened(table: str, row: Row) -> Row:
    """The row without its checksum.

    Raises:
        StoreCorrupt: It is not the row that was written.
    """
    fields = row[:-1]
    if checksum(*fields) != row[-1]:
        raise StoreCorrupt(f"a row of {table} fails its checksum")
    return fields


def settlement_row(record: Settlement) -> Row:
    """A settlement as it is inserted."""
    at_unix_s, *names, energy_j, provenance, reserved_j, tokens = record
    return sealed(float(at_unix_s), *names, float(energy_j), provenance, float(reserved_j), tokens)


def settlement_of(row: Row) -> Settlement:
    """A settlement as it was inserted.

    Raises:
        StoreCorrupt: It is not what was written.
    """
    return Settlement(*opened("settlements", row))


def quota_row(scope: str, quota: Quota) -> Row:
    """A quota as it is stored."""
    amounts = (None if amount is None else float(amount) for amount in (quota.request_j, quota.day_j, quota.mean_w))
    return sealed(scope, *amounts, quota.day_tokens)


def key_row(key: Key) -> Row:
    """A key as it is stored."""
    expires, revoked = key.expires_unix_s, key.revoked_unix_s
    return sealed(
        key.key_id,
        key.digest,
        key.tenant,
        key.role,
        float(key.created_unix_s),
        None if expires is None else float(expires),
        None if revoked is None else float(revoked),
    )


def claim_row(claim: Claim, result: bytes | None) -> Row:
    """A claim as it is stored."""
    return sealed(claim.tenant, claim.request_id, claim.fingerprint, float(claim.until_unix_s), result)


def spent_row(meter: Meter, amount: float, assumed: float) -> Row:
    """What a meter has counted, as it is stored."""
    return sealed(*meter, float(amount), float(assumed))


def table_rows(connection: apsw.Connection, table: str) -> list[Row]:
    """All rows of one of the small tables, checked.

    Raises:
        StoreCorrupt: One of them is not what was written.
    """
    return [opened(table, row) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608
