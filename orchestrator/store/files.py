"""The files of an SQLite store: the lock, copies that are made while it is in use, and putting a copy in its place.

A copy is one file without a log beside it, checked before it gets its name: what has a name is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from orchestrator.store import sqlite_rows as rows_of
from orchestrator.store.errors import StoreCorrupt, StoreFailed, StoreFull, StoreInUse
from orchestrator.store.schema import version_of

BUSY_MS = 5000
SNAPSHOTS = "snapshots"
SMALL_TABLES = ("quotas", "spent", "held", "leases", "keys")
_PRIVATE = 0o600


@dataclass(frozen=True)
class Contents:
    """What a copy holds.

    Args:
        version: Of its schema.
        settlements: How many there are.
        last_number: Of the newest settlement, 0 where there is none.
        newest_unix_s: When the newest was settled; None where there is none.
    """

    version: int
    settlements: int
    last_number: int
    newest_unix_s: float | None


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of SQLite as errors of a store.

    Raises:
        StoreFull, StoreCorrupt, StoreFailed: What SQLite says.
    """
    try:
        yield
    except apsw.FullError:
        raise StoreFull from None
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreCorrupt(type(error).__name__) from error
    except apsw.Error as error:
        raise StoreFailed from error


def locked(path: Path) -> int:
    """An open lock file that says that this process has the database.

    Raises:
        StoreInUse: Another one has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, _PRIVATE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StoreInUse(str(path.parent)) from None
    return lock


def set_aside(path: Path, why: str) -> Path:
    """A folder with a copy of the database and its log, for whoever looks into it."""
    taken = 0
    while (folder := path.with_name(f"{path.stem}.{why}-{taken}")).exists():
        taken += 1
    folder.mkdir(mode=0o700)
    for suffix in ("", "-wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copy2(part, folder / part.name)
    return folder


def verify(path: Path, *, every_row: bool = True) -> Contents:
    """Check a copy: SQLite's own check of the whole file, and the rows' checksums.

    Args:
        path: The copy.
        every_row: Also settlements and results; without, only the rows that decide who may spend what.

    Raises:
        StoreCorrupt: It is not what was written.
        StoreNewer: A newer Edgewise wrote it.
        StoreFailed: It cannot be read.
    """
    with translated(), contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        version = version_of(connection)
        if version == 0:
            raise StoreCorrupt("it is empty")
        if connection.pragma("integrity_check") != "ok":
            raise StoreCorrupt("integrity_check")
        for table in SMALL_TABLES:
            rows_of.table_rows(connection, table)
        if every_row:
            for row in connection.execute(f"SELECT {rows_of.SETTLEMENT_COLUMNS} FROM settlements"):  # noqa: S608
                rows_of.opened("settlements", row)
            for row in connection.execute("SELECT * FROM claims"):
                rows_of.opened("claims", row)
        query = "SELECT count(*), coalesce(max(number), 0), max(at_unix_s) FROM settlements"
        ((settlements, last, newest),) = connection.execute(query)
        return Contents(version, settlements, last, newest)


def copy_store(source: Path, target: Path, *, every_row: bool = True) -> Contents:
    """Copy a store, also one that a gateway is writing to, and check the copy.

    Args:
        source: The database, or a copy of one.
        target: Gets its name, or replaces what has it, once the copy is whole and on the disk.
        every_row: See `verify`.

    Raises:
        StoreError: It cannot be read or written, or is damaged; `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
    try:
        with translated():
            _copy(source, draft)
        contents = verify(draft, every_row=every_row)
        _sync(draft)
        draft.replace(target)
        _sync(target.parent)
    finally:
        draft.unlink(missing_ok=True)
    return contents


def _copy(source: Path, draft: Path) -> None:
    reading = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
    with contextlib.closing(reading), contextlib.closing(apsw.Connection(str(draft))) as writing:
        reading.set_busy_timeout(BUSY_MS)
        # In one go: one view of the database, however much is written meanwhile, and nobody who writes waits for it.
        with writing.backup("main", reading, "main") as backup:
            while not backup.done:
                backup.step(-1)
        writing.pragma("journal_mode", "delete")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(copy: Path, store: Path) -> Contents:
    """Have a copy be the store; the caller holds the lock and has set aside what was there.

    Raises:
        StoreError: The copy is damaged or newer, or the disk fails; the store is as it was.
    """
    whole = store.with_name(f".{store.name}.restored")
    try:
        contents = copy_store(copy, whole)
        # The old log must never meet the new file. If the power goes in between, what is left is an older state of the
        # old file or none: the next start finds damage or nothing, and a snapshot.
        for suffix in ("-wal", "-shm"):
            store.with_name(store.name + suffix).unlink(missing_ok=True)
        whole.replace(store)
        _sync(store.parent)
    finally:
        whole.unlink(missing_ok=True)
    return contents


# ---- snapshots


def snapshots(store: Path) -> list[Path]:
    """Snapshots of a store, the newest first."""
    return sorted((store.parent / SNAPSHOTS).glob(f"{store.stem}-2*.db"), reverse=True)


def snapshot_name(store: Path, at_unix_s: float) -> Path:
    """Where a snapshot of this moment goes."""
    return store.parent / SNAPSHOTS / f"{store.stem}-{_stamp(at_unix_s)}.db"


def before_migration(store: Path, version: int) -> Path:
    """Where the copy of an older store goes before it is migrated; no retention takes it away."""
    return store.parent / SNAPSHOTS / f"{store.stem}-v{version}-{_stamp(time.time())}.db"


def _stamp(at_unix_s: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_unix_s))
