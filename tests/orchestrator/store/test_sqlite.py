"""What only SQLite must do: refuse unsafe libraries and second gateways, notice damage, outlive a full disk."""

from __future__ import annotations

import math
import random
from pathlib import Path

import apsw
import pytest

from orchestrator.store import sqlite
from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreCorrupt, StoreError, StoreFailed, StoreFull, StoreInUse, StoreUnsafe
from orchestrator.store.records import DAY_J, FLEET, Key, Meter, Posting, Quota, Settlement
from orchestrator.store.service import transact
from orchestrator.store.sqlite import SqliteDesk, is_safe
from tests.faults.power import FragileDisk

METER = Meter(FLEET, DAY_J, 1)
FLIPS = 60


def settlement(number: int) -> Settlement:
    return Settlement(
        float(number), f"r{number}", "tenant", "key", "digits", "answered", "x:y@z" * 8, 0.5, "modelled", 1.0, number
    )


def fill(desk: SqliteDesk, rows: int = 40) -> None:
    def step(desk: sqlite.SqliteDesk) -> None:
        desk.put_quota(FLEET, Quota(day_j=1000.0))
        desk.put_key(Key("k", bytes(range(32)), "tenant", "client", 1.0))
        desk.renew("g", 1e12)
        desk.reserve("g", {METER: 3.0})
        for number in range(rows):
            desk.settle(Posting("g", {}, {METER: 0.5}, settlement(number)))

    transact(desk, [lambda d: step(desk)])


def everything(desk: SqliteDesk) -> object:
    history = desk.page(0, since_unix_s=0.0, until_unix_s=math.inf, rows=1000)
    return history, desk.balances(), desk.quotas(), desk.keys()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("3.6.23", True),
        ("3.7.0", False),
        ("3.40.1", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.45.0", False),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.54.1", True),
    ],
)
def test_versions_with_the_wal_reset_defect_are_known(version: str, safe: bool) -> None:
    assert is_safe(version) is safe


def test_an_unsafe_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.40.1")
    with pytest.raises(StoreUnsafe, match=r"3\.40\.1"):
        SqliteDesk(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


def test_a_second_gateway_is_refused(tmp_path: Path) -> None:
    desk = SqliteDesk(tmp_path / "ledger.db")
    with pytest.raises(StoreInUse):
        SqliteDesk(tmp_path / "ledger.db")
    desk.close()
    SqliteDesk(tmp_path / "ledger.db").close()


def test_it_syncs_every_commit(tmp_path: Path) -> None:
    desk = SqliteDesk(tmp_path / "ledger.db")
    assert desk._connection.pragma("synchronous") == 2
    assert desk._connection.pragma("journal_mode") == "wal"
    desk.close()


def test_others_cannot_read_it(tmp_path: Path) -> None:
    SqliteDesk(tmp_path / "ledger.db").close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("rows", [1, 4, 5, 64, 65, 150])
@pytest.mark.parametrize("spent_j", [0.0, 0.5], ids=["settlements-alone", "with-other-rows"])
def test_settlements_are_kept_in_the_order_in_which_they_came(tmp_path: Path, rows: int, spent_j: float) -> None:
    desk = SqliteDesk(tmp_path / "ledger.db")
    spends = {METER: spent_j} if spent_j else {}
    for first in (0, rows):

        def step(desk: Desk, first: int = first) -> None:
            for number in range(first, first + rows):
                desk.settle(Posting("g", {}, spends, settlement(number)))

        transact(desk, [step])
    desk.close()
    desk = SqliteDesk(tmp_path / "ledger.db")
    kept = desk.page(0, since_unix_s=0.0, until_unix_s=math.inf, rows=1000)
    assert kept == [(number + 1, settlement(number)) for number in range(2 * rows)]
    assert sum(balance.spent for balance in desk.balances()) == 2 * rows * spent_j
    desk.close()


# ---- damage


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    desk = SqliteDesk(path)
    fill(desk)
    expected = everything(desk)
    desk.close()
    sound, chance, noticed = path.read_bytes(), random.Random(7), 0
    for _ in range(FLIPS):
        damaged, place = bytearray(sound), chance.randrange(len(sound))
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            desk = SqliteDesk(path)
            assert everything(desk) == expected
            desk.close()
        except StoreError:
            noticed += 1
    assert noticed > 0


def test_a_changed_row_is_never_served(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    desk = SqliteDesk(path)
    fill(desk)
    desk._connection.execute("UPDATE settlements SET energy_j = 0.25 WHERE number = 7")
    with pytest.raises(StoreCorrupt):
        everything(desk)
    desk.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE spent SET amount = 0",
        "UPDATE held SET amount = 0",
        "UPDATE quotas SET day_j = 1e9",
        "UPDATE keys SET role = 'admin'",
        "UPDATE leases SET until_unix_s = 1e15",
    ],
)
def test_books_that_were_altered_are_put_aside_and_not_opened(tmp_path: Path, change: str) -> None:
    path = tmp_path / "ledger.db"
    desk = SqliteDesk(path)
    fill(desk)
    desk._connection.execute(change)
    desk.close()
    for turn in range(2):
        with pytest.raises(StoreCorrupt, match=f"damaged-{turn}"):
            SqliteDesk(path)
        assert (tmp_path / f"ledger.damaged-{turn}" / "ledger.db").exists()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"\0" * 8192])
def test_what_is_no_database_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        SqliteDesk(path)
    assert path.read_bytes() == content
    assert (tmp_path / "ledger.damaged-0" / "ledger.db").read_bytes() == content


def test_a_cut_off_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    desk = SqliteDesk(path)
    fill(desk, rows=200)
    desk.close()
    path.write_bytes(path.read_bytes()[:-8192])
    with pytest.raises(StoreCorrupt):
        SqliteDesk(path)


# ---- disks that fail


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    desk = SqliteDesk(tmp_path / "ledger.db")
    fill(desk)
    before = everything(desk)
    pages = desk._connection.pragma("page_count")
    desk._connection.pragma("max_page_count", pages)
    with pytest.raises(StoreFull):
        transact(desk, [lambda d: fill_more(d, 500)])
    assert everything(desk) == before
    desk._connection.pragma("max_page_count", 1_000_000)
    transact(desk, [lambda d: fill_more(d, 500)])
    desk.close()


def fill_more(desk: object, rows: int) -> None:
    assert isinstance(desk, SqliteDesk)
    for number in range(rows):
        desk.settle(Posting("g", {}, {METER: 0.01}, settlement(number)))


def test_a_failed_sync_is_a_failure_and_keeps_nothing_acknowledged() -> None:
    disk = FragileDisk()
    desk = SqliteDesk(Path("ledger.db"), vfs=disk.name)
    fill(desk)
    disk.broken = True
    with pytest.raises(StoreFailed):
        transact(desk, [lambda d: fill_more(d, 1)])
    disk.broken = False
    disk.lose_power(random.Random(1), abandon=[desk._connection])
    assert len(SqliteDesk(Path("ledger.db"), vfs=disk.name).page(0, since_unix_s=0, until_unix_s=9e9, rows=99)) == 40
