"""What one transaction writes, as one statement of SQLite.

Python gives up its interpreter at every step of SQLite and must get it back from the thread that serves requests,
which takes milliseconds where that thread is busy. Rows of all tables therefore go through one view whose triggers
send each to its table, and the statement commits by itself: one step, whatever it writes. Where all of them are
settlements, as most are, the same rows go straight to their table, past the triggers.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from orchestrator.store.sqlite_rows import SETTLEMENT_COLUMNS, Row

if TYPE_CHECKING:
    import apsw

COLUMNS = 12
# Rows of one statement: of the smallest of these that holds them all, the rest are empty. Each is a statement of its
# own in SQLite's cache.
SIZES = (4, 6, 8, 12, 16, 20, 24, 32, 48, 64)


class Write(IntEnum):
    """What a row does."""

    NOTHING = 0
    SETTLE = 1
    SPEND = 2
    HOLD = 3
    UNHOLD = 4
    CLAIM = 5
    UNCLAIM = 6


_NEW = [f"new.c{index}" for index in range(COLUMNS)]


def _values(count: int) -> str:
    return ", ".join(_NEW[:count])


_ACTIONS = {
    Write.SETTLE: f"INSERT INTO settlements({SETTLEMENT_COLUMNS}) VALUES ({_values(12)})",  # noqa: S608
    Write.SPEND: f"INSERT OR REPLACE INTO spent VALUES ({_values(6)})",  # noqa: S608
    Write.HOLD: f"INSERT OR REPLACE INTO held VALUES ({_values(6)})",  # noqa: S608
    Write.UNHOLD: "DELETE FROM held WHERE holder = new.c0 AND scope = new.c1 AND unit = new.c2 AND window = new.c3",
    Write.CLAIM: f"INSERT OR REPLACE INTO claims VALUES ({_values(6)})",  # noqa: S608
    Write.UNCLAIM: "DELETE FROM claims WHERE tenant = new.c0 AND request_id = new.c1",
}
_PADDING: Row = (int(Write.NOTHING),) + (None,) * COLUMNS


class Batch:
    """Rows to be written, in the order in which they were added.

    Args:
        connection: To the store, whose tables are there already; gets a view and triggers of its own, which are not in
            the file.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: list[Row] = []
        # Whether anything waits that is no settlement.
        self._mixed = False
        connection.pragma("temp_store", "memory")
        names = ", ".join(f"c{index}" for index in range(COLUMNS))
        empty = ", ".join(["NULL"] * (COLUMNS + 1))
        connection.execute(f"CREATE TEMP VIEW batch(kind, {names}) AS SELECT {empty} WHERE 0")
        for kind, action in _ACTIONS.items():
            connection.execute(
                f"CREATE TEMP TRIGGER write_{int(kind)} INSTEAD OF INSERT ON batch WHEN new.kind = {int(kind)}"
                f" BEGIN {action}; END"
            )

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._rows)

    def add(self, kind: Write, row: Row) -> None:
        """One more row, of at most `COLUMNS` fields."""
        self._rows.append((kind, *row, *_PADDING[len(row) + 1 :]))
        if kind is not Write.SETTLE:
            self._mixed = True

    def clear(self) -> None:
        """Forget what waits."""
        self._rows.clear()
        self._mixed = False

    def write(self) -> None:
        """Write what waits; all of it together even outside a transaction."""
        rows, self._rows = self._rows, []
        mixed, self._mixed = self._mixed, False
        most = SIZES[-1]
        if len(rows) <= most:
            if rows:
                self._insert(rows, mixed=mixed)
            return
        inside = self._connection.in_transaction
        if not inside:
            self._connection.execute("BEGIN IMMEDIATE")
        for first in range(0, len(rows), most):
            self._insert(rows[first : first + most], mixed=mixed)
        if not inside:
            self._connection.execute("COMMIT")

    def _insert(self, rows: list[Row], *, mixed: bool) -> None:
        size = next(size for size in SIZES if size >= len(rows))
        rows += [_PADDING] * (size - len(rows))
        self._connection.execute(_statement(size, mixed=mixed), list(chain.from_iterable(rows)))


@cache
def _statement(size: int, *, mixed: bool) -> str:
    row = "(" + ",".join("?" * (COLUMNS + 1)) + ")"
    rows = "VALUES " + ",".join([row] * size)
    if mixed:
        return f"INSERT INTO batch {rows}"
    fields = ", ".join(f"column{index}" for index in range(2, COLUMNS + 2))
    return (
        f"INSERT INTO settlements({SETTLEMENT_COLUMNS})"  # noqa: S608
        f" SELECT {fields} FROM ({rows}) WHERE column1 = {int(Write.SETTLE)}"
    )
