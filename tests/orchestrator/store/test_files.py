"""Copies of a store: whole while it is in use, checked, put in place without losing what was there; and old schemas."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import apsw
import pytest

from orchestrator.store import schema
from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreCorrupt, StoreInUse, StoreNewer
from orchestrator.store.files import copy_store, locked, put_in_place, set_aside, snapshot_name, snapshots, verify
from orchestrator.store.records import FLEET, Key, Posting, Quota, Settlement, checksum
from orchestrator.store.recovery import open_or_recover
from orchestrator.store.service import transact
from orchestrator.store.sqlite import SqliteDesk
from tests.orchestrator.store.test_sqlite import METER, everything, fill, settlement

# Version 1 as it was released; never to be changed.
FIRST_SCHEMA = """
CREATE TABLE quotas(scope TEXT PRIMARY KEY, request_j REAL, day_j REAL, mean_w REAL, day_tokens INTEGER,
    sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE spent(scope TEXT, unit TEXT, window INTEGER, amount REAL, assumed REAL, sum BLOB NOT NULL,
    PRIMARY KEY(scope, unit, window)) WITHOUT ROWID;
CREATE TABLE held(holder TEXT, scope TEXT, unit TEXT, window INTEGER, amount REAL, sum BLOB NOT NULL,
    PRIMARY KEY(holder, scope, unit, window)) WITHOUT ROWID;
CREATE TABLE leases(holder TEXT PRIMARY KEY, until_unix_s REAL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE keys(key_id TEXT PRIMARY KEY, digest BLOB, tenant TEXT, role TEXT, created_unix_s REAL,
    expires_unix_s REAL, revoked_unix_s REAL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE claims(tenant TEXT, request_id TEXT, fingerprint BLOB, until_unix_s REAL, result BLOB,
    sum BLOB NOT NULL, PRIMARY KEY(tenant, request_id)) WITHOUT ROWID;
CREATE TABLE settlements(number INTEGER PRIMARY KEY, at_unix_s REAL, request_id TEXT,
    tenant TEXT, key_id TEXT, task TEXT, outcome TEXT, arms TEXT, energy_j REAL, provenance TEXT, reserved_j REAL,
    tokens INTEGER, sum BLOB NOT NULL);
PRAGMA application_id = 0x45444757;
PRAGMA user_version = 1;
"""


def first_store(path: Path) -> None:
    """A store as version 1 left it, with a quota and a settlement in it."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute(FIRST_SCHEMA)
    quota = (FLEET, None, 7.5, None, None)
    connection.execute("INSERT INTO quotas VALUES(?,?,?,?,?,?)", (*quota, checksum(*quota)))
    row = (1.5, "r1", "t", "k", "digits", "answered", "a:b@c", 0.25, "modelled", 1.0, 3)
    connection.execute("INSERT INTO settlements VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?)", (*row, checksum(*row)))
    connection.close()


def settle(desk: Desk, numbers: Iterable[int]) -> None:
    for number in numbers:
        desk.settle(Posting("g", {}, {METER: 0.5}, settlement(number)))


def filled(path: Path, rows: int = 40) -> object:
    desk = SqliteDesk(path)
    fill(desk, rows)
    found = everything(desk)
    desk.close()
    return found


def opened(path: Path) -> object:
    desk = SqliteDesk(path)
    found = everything(desk)
    desk.close()
    return found


# ---- copies


def test_a_copy_made_while_others_write_is_one_moment(tmp_path: Path) -> None:
    """Every transaction spends as much as it settles; a copy that held a half of one would not add up."""
    path, stop = tmp_path / "ledger.db", threading.Event()
    desk = SqliteDesk(path)
    fill(desk, rows=2000)

    def write() -> None:
        number = 2000
        while not stop.is_set():
            transact(desk, [partial(settle, numbers=[number])])
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = [copy_store(path, tmp_path / f"copy-{turn}.db").settlements for turn in range(5)]
    finally:
        stop.set()
        writer.join()
        desk.close()
    assert counts == sorted(counts)
    assert counts[-1] > counts[0], "nothing was written meanwhile: this shows nothing"
    for turn, count in enumerate(counts):
        copy = SqliteDesk(tmp_path / f"copy-{turn}.db")
        (balance,) = copy.balances()
        assert balance.spent == pytest.approx(0.5 * count)
        copy.close()


def test_a_copy_holds_everything_and_nobody_else_reads_it(tmp_path: Path) -> None:
    expected = filled(tmp_path / "ledger.db")
    contents = copy_store(tmp_path / "ledger.db", tmp_path / "elsewhere" / "copy.db")
    assert (contents.version, contents.settlements, contents.newest_unix_s) == (schema.VERSION, 40, 39.0)
    assert (tmp_path / "elsewhere" / "copy.db").stat().st_mode & 0o077 == 0
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["copy.db"]
    assert opened(tmp_path / "elsewhere" / "copy.db") == expected


def alter(path: Path, change: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(change)
    connection.close()


@pytest.mark.parametrize(
    "change", ["UPDATE settlements SET energy_j = 0", "UPDATE quotas SET day_j = 1e9", "DELETE FROM keys; VACUUM"]
)
def test_a_copy_of_what_was_altered_gets_no_name(tmp_path: Path, change: str) -> None:
    filled(tmp_path / "ledger.db")
    alter(tmp_path / "ledger.db", change)
    if "DELETE" in change:
        # Control: a change that leaves every row what was written is no damage.
        copy_store(tmp_path / "ledger.db", tmp_path / "copy.db")
        return
    with pytest.raises(StoreCorrupt):
        copy_store(tmp_path / "ledger.db", tmp_path / "copy.db")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".db", ".lock"]


def test_what_a_copy_replaces_is_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    expected = filled(path)
    copy_store(path, copy)
    desk = SqliteDesk(path)
    fill(desk, 10)
    later = everything(desk)
    desk.close()
    kept = set_aside(path, "replaced")
    put_in_place(copy, path)
    assert opened(path) == expected
    assert opened(kept / "ledger.db") == later != expected


def test_an_old_log_never_meets_a_restored_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    expected = filled(path)
    copy_store(path, copy)
    desk = SqliteDesk(path)
    fill(desk, 10)
    log = (tmp_path / "ledger.db-wal").read_bytes()
    desk.close()
    # As after a kill: the log lies beside the file.
    (tmp_path / "ledger.db-wal").write_bytes(log)
    assert log
    put_in_place(copy, path)
    assert opened(path) == expected


def test_a_damaged_copy_replaces_nothing(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    expected = filled(path)
    copy.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(StoreCorrupt):
        put_in_place(copy, path)
    assert opened(path) == expected


# ---- versions


def test_an_older_store_is_copied_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first_store(path)
    desk = SqliteDesk(path)
    assert desk.quotas() == {FLEET: Quota(day_j=7.5)}
    assert [found.request_id for _, found in desk.page(0, since_unix_s=0.0, until_unix_s=9e9, rows=9)] == ["r1"]
    desk.close()
    assert verify(path).version == schema.VERSION
    (before,) = (tmp_path / "snapshots").glob("*.db")
    assert "-v1-" in before.name
    assert verify(before).version == 1
    # The copy of before is no snapshot: no retention forgets it, no recovery takes it for a recent state.
    assert snapshots(path) == []
    SqliteDesk(path).close()
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    first_store(path)
    monkeypatch.setattr(schema, "MIGRATIONS", {2: "CREATE TABLE half(x); CREATE TABLE quotas(x)"})
    with pytest.raises(Exception, match=r"."):
        SqliteDesk(path)
    found = apsw.Connection(str(path))
    assert found.pragma("user_version") == 1
    assert found.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").get == 0


def test_a_newer_store_is_refused_and_says_who_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    alter(path, f"UPDATE meta SET value = '9.9.9'; PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match=r"9\.9\.9 with schema 3; this Edgewise knows 2"):
        SqliteDesk(path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*damaged*"))


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="no store of Edgewise"):
        SqliteDesk(path)
    assert path.read_bytes() == before


# ---- damage, and what comes back


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store with a snapshot of 40 settlements, ten more since, and a quota that somebody has altered."""
    path = tmp_path / "ledger.db"
    filled(path)
    copy_store(path, snapshot_name(path, 1e9))
    desk = SqliteDesk(path)
    transact(desk, [lambda d: settle(d, range(40, 50))])
    desk.close()
    alter(path, "UPDATE quotas SET day_j = 1e9")
    return path


def test_a_damaged_store_comes_back_from_its_snapshot_and_says_what_is_lost(damaged: Path) -> None:
    desk, loss = open_or_recover(damaged)
    (balance,) = desk.balances()
    assert balance.limit == 1000.0
    assert balance.spent == pytest.approx(20.0)
    assert loss is not None
    assert loss.settlements == 10
    assert loss.why == "a row of quotas fails its checksum"
    assert 0.0 <= loss.seconds < 60.0
    # Control: what was set aside is the damaged one, to the byte that matters.
    connection = apsw.Connection(str(loss.kept / "ledger.db"))
    assert connection.execute("SELECT day_j FROM quotas").get == 1e9
    connection.close()
    desk.close()
    assert open_or_recover(damaged)[1] is None


def test_a_damaged_snapshot_is_passed_over(damaged: Path) -> None:
    newest = snapshot_name(damaged, 2e9)
    newest.write_bytes(snapshots(damaged)[0].read_bytes()[:-4096])
    assert snapshots(damaged)[0] == newest
    desk, loss = open_or_recover(damaged)
    desk.close()
    assert loss is not None
    assert loss.snapshot != newest


def test_without_a_snapshot_nothing_is_made_up(damaged: Path) -> None:
    for snapshot in snapshots(damaged):
        snapshot.unlink()
    before = damaged.read_bytes()
    with pytest.raises(StoreCorrupt, match="damaged-0"):
        open_or_recover(damaged)
    assert damaged.read_bytes() == before


@pytest.mark.parametrize("gone", [True, False])
def test_a_store_that_is_gone_or_empty_is_no_new_one_where_there_are_snapshots(damaged: Path, gone: bool) -> None:
    if gone:
        damaged.unlink()
    else:
        damaged.write_bytes(b"")
    desk, loss = open_or_recover(damaged)
    assert desk.quotas() == {FLEET: Quota(day_j=1000.0)}
    assert loss is not None
    assert loss.settlements is None or loss.settlements == 0
    desk.close()


def test_a_store_in_use_is_not_recovered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    copy_store(path, snapshot_name(path, 1e9))
    lock = locked(path)
    path.write_bytes(b"")
    with pytest.raises(StoreInUse):
        open_or_recover(path)
    assert path.read_bytes() == b""
    os.close(lock)


def test_any_flipped_bit_is_harmless_noticed_or_recovered(tmp_path: Path) -> None:
    """Never a wrong row; where start notices, the snapshot is back."""
    path = tmp_path / "ledger.db"
    expected = filled(path)
    copy_store(path, snapshot_name(path, 1e9))
    sound, chance, recovered = path.read_bytes(), random.Random(11), 0
    for _ in range(40):
        altered, place = bytearray(sound), chance.randrange(len(sound))
        altered[place] ^= 1 << chance.randrange(8)
        path.write_bytes(altered)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            desk, loss = open_or_recover(path)
        except StoreNewer:
            continue
        try:
            assert everything(desk) == expected
        except StoreCorrupt:
            assert loss is None
        recovered += loss is not None
        desk.close()
    assert recovered > 0


def test_rows_of_the_contract_are_what_is_copied(tmp_path: Path) -> None:
    """A key and a settlement as they were, after copy, migration and restore in turn."""
    path = tmp_path / "ledger.db"
    first_store(path)
    desk = SqliteDesk(path)
    transact(desk, [lambda d: d.put_key(Key("k", bytes(32), "t", "admin", 1.0))])
    desk.close()
    copy_store(path, tmp_path / "copy.db")
    put_in_place(tmp_path / "copy.db", path)
    desk = SqliteDesk(path)
    ((_, found),) = desk.page(0, since_unix_s=0.0, until_unix_s=math.inf, rows=9)
    assert isinstance(found, Settlement)
    assert found.energy_j == 0.25
    assert [key.key_id for key in list(desk.keys())] == ["k"]
    desk.close()
