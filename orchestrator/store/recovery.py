"""A damaged SQLite store comes back from its last good snapshot, and what that lost is told.

Without a snapshot nothing is made up: the gateway refuses, and its operator decides.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import apsw

from orchestrator.store.errors import StoreCorrupt, StoreError
from orchestrator.store.files import locked, put_in_place, set_aside, snapshots, verify
from orchestrator.store.sqlite import SqliteDesk


@dataclass(frozen=True)
class Loss:
    """What a restored store does not know any more.

    Args:
        why: What was damaged.
        kept: Where the damaged files are.
        snapshot: What was restored.
        seconds: From the snapshot to the last write of the damaged store: what was spent, held, created or revoked
            then is forgotten.
        settlements: How many of that time are lost; None where the damaged file does not tell.
    """

    why: str
    kept: Path
    snapshot: Path
    seconds: float
    settlements: int | None


def open_or_recover(path: Path) -> tuple[SqliteDesk, Loss | None]:
    """Open a store; where it is damaged or gone, restore its newest good snapshot.

    Raises:
        StoreCorrupt: Damaged, and there is no snapshot to restore.
        StoreError: See `SqliteDesk`.
    """
    if snapshots(path) and not _has_content(path):
        return _recover(path, StoreCorrupt("the file is empty or gone"), None)
    try:
        return SqliteDesk(path), None
    except StoreCorrupt as damage:
        return _recover(path, damage, Path(damage.copy))


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _recover(path: Path, damage: StoreCorrupt, kept: Path | None) -> tuple[SqliteDesk, Loss]:
    good = next((snapshot for snapshot in snapshots(path) if _is_good(snapshot)), None)
    if good is None:
        raise damage
    lock = locked(path)
    try:
        kept = kept or set_aside(path, "damaged")
        written_s = path.stat().st_mtime if path.exists() else good.stat().st_mtime
        last = _last_number(kept / path.name)
        contents = put_in_place(good, path)
    finally:
        os.close(lock)
    lost = None if last is None else max(0, last - contents.last_number)
    loss = Loss(damage.what, kept, good, max(0.0, written_s - good.stat().st_mtime), lost)
    return SqliteDesk(path), loss


def _is_good(snapshot: Path) -> bool:
    try:
        verify(snapshot)
    except (StoreError, OSError):
        return False
    return True


def _last_number(damaged: Path) -> int | None:
    """The newest settlement that a damaged file still tells of, if it does."""
    try:
        connection = apsw.Connection(str(damaged), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            found = connection.execute("SELECT coalesce(max(number), 0) FROM settlements").get
        finally:
            connection.close()
    except apsw.Error:
        return None
    return found if isinstance(found, int) else None
