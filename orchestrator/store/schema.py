"""Versions of the SQLite schema: a new file gets the newest, an older one is brought up to date, a newer one refused.

A migration and the number that says it was done are one transaction: a file is of one version or of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator import __version__
from orchestrator.store import sqlite_rows as rows_of
from orchestrator.store.errors import StoreCorrupt, StoreNewer

if TYPE_CHECKING:
    import apsw

APPLICATION_ID = 0x45444757
FIRST = 1

# What brings a file of the version before to this one. A version's text never changes once it was released.
MIGRATIONS: Mapping[int, str] = MappingProxyType(
    {
        # Who wrote the file: what a gateway that does not know its schema can tell the operator.
        2: "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT, sum BLOB NOT NULL) WITHOUT ROWID;",
    }
)
VERSION = max(MIGRATIONS)


def version_of(connection: apsw.Connection) -> int:
    """The file's version; 0 for an empty one.

    Raises:
        StoreCorrupt: It is no store of ours.
        StoreNewer: This Edgewise does not know its version.
    """
    mark, found = int(connection.pragma("application_id")), int(connection.pragma("user_version"))
    tables = connection.execute("SELECT count(*) FROM sqlite_master").get
    if mark == 0 and found == 0 and tables == 0:
        return 0
    if mark != APPLICATION_ID or found < FIRST:
        raise StoreCorrupt("it is no store of Edgewise")
    if found > VERSION:
        raise StoreNewer(found, VERSION, _written_by(connection))
    return found


def _written_by(connection: apsw.Connection) -> str:
    """What a file of any later version says of its writer, if it still says it the way that we know."""
    try:
        found = connection.execute("SELECT value FROM meta WHERE name = 'written_by'").get
    except Exception:  # the rim: whatever a later version looks like, it is refused with a reason
        return ""
    return found[:32] if isinstance(found, str) else ""


def bring_up_to_date(connection: apsw.Connection, found: int) -> None:
    """Migrate a file of version `found`, 0 for an empty one, in one transaction."""
    if found == VERSION and _written_by(connection) == __version__:
        return
    with connection:
        if found == 0:
            connection.pragma("application_id", APPLICATION_ID)
            connection.execute(rows_of.SCHEMA)
        for version in range(max(found, FIRST) + 1, VERSION + 1):
            connection.execute(MIGRATIONS[version])
        connection.pragma("user_version", VERSION)
        row = rows_of.sealed("written_by", __version__)
        connection.execute("INSERT OR REPLACE INTO meta VALUES(?,?,?)", row)
