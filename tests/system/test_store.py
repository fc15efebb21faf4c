"""The books of a running gateway are backed up, restored and recovered by the commands that operators type."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from orchestrator.client.types import Quota
from orchestrator.store.files import snapshots
from orchestrator.store.records import Quota as StoredQuota
from orchestrator.store.sqlite import SqliteDesk
from tests.fakes.processes import Fleet, http_get

pytestmark = pytest.mark.system


def listening(fleet: Fleet) -> None:
    fleet.wait_until(lambda: http_get(f"http://{fleet.http_address}/healthz")[0] == 200, "listening")


def limit(fleet: Fleet, day_j: float) -> None:
    with fleet.client() as client:
        client.set_quota("fleet", Quota(day_j=day_j))


def day_j(fleet: Fleet) -> float | None:
    with fleet.client() as client:
        (found,) = client.quotas()
        return found.quota.day_j


def in_newest_snapshot(ledger: Path) -> float | None:
    for newest in snapshots(ledger)[:1]:
        connection = apsw.Connection(str(newest), flags=apsw.SQLITE_OPEN_READONLY)
        found = connection.execute("SELECT day_j FROM quotas").get
        connection.close()
        return found if isinstance(found, float) else None
    return None


def test_backup_restore_and_recovery(tmp_path: Path) -> None:
    state, copy = ("--state-dir", str(tmp_path / "state")), tmp_path / "books.db"
    ledger = tmp_path / "state" / "ledger.db"
    with Fleet(tmp_path) as fleet:
        gateway = fleet.start_gateway()
        listening(fleet)
        limit(fleet, 5.0)
        told = fleet.cli("store", "backup", str(copy), *state)
        assert (told.returncode, "every row checked" in told.stderr) == (0, True), told.stderr
        refused = fleet.cli("store", "restore", str(copy), *state)
        assert (refused.returncode, "stop the gateway first" in refused.stderr) == (3, True), refused.stderr
        limit(fleet, 7.0)
        # Quotas are in a snapshot within seconds.
        fleet.wait_until(lambda: in_newest_snapshot(ledger) == 7.0, "a snapshot of the new quota")
        gateway.terminate()
        # What was set after the copy is forgotten, and kept beside.
        told = fleet.cli("store", "restore", str(copy), *state)
        assert (told.returncode, "replaced-0" in told.stderr) == (0, True), told.stderr
        assert "schema 2 already" in fleet.cli("store", "migrate", *state).stderr
        desk = SqliteDesk(ledger)
        assert desk.quotas() == {"fleet": StoredQuota(day_j=5.0)}
        desk.close()
        connection = apsw.Connection(str(ledger))
        connection.execute("UPDATE quotas SET day_j = 1e9")
        connection.close()
        gateway = fleet.start_gateway()
        listening(fleet)
        (event,) = gateway.events("store.recovered")
        assert event["why"] == "a row of quotas fails its checksum"
        assert event["settlements_lost"] == 0
        assert (Path(event["kept"]) / "ledger.db").exists()
        assert day_j(fleet) == 7.0
