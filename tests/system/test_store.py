"""The books of a running gateway are backed up, restored and recovered by the commands that operators type."""

from __future__ import annotations

import signal
from pathlib import Path

import apsw
import pytest

from orchestrator.client.types import Quota
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


def test_backup_restore_and_recovery(tmp_path: Path) -> None:
    state, copy = ("--state-dir", str(tmp_path / "state")), tmp_path / "books.db"
    with Fleet(tmp_path) as fleet:
        gateway = fleet.start_gateway()
        listening(fleet)
        limit(fleet, 5.0)
        told = fleet.cli("store", "backup", str(copy), *state)
        assert (told.returncode, "every row checked" in told.stderr) == (0, True), told.stderr
        refused = fleet.cli("store", "restore", str(copy), *state)
        assert (refused.returncode, "stop the gateway first" in refused.stderr) == (3, True), refused.stderr
        limit(fleet, 7.0)
        gateway.terminate()
        # What was set after the copy is forgotten, and kept beside.
        told = fleet.cli("store", "restore", str(copy), *state)
        assert (told.returncode, "replaced-0" in told.stderr) == (0, True), told.stderr
        assert "schema 2 already" in fleet.cli("store", "migrate", *state).stderr
        gateway = fleet.start_gateway()
        listening(fleet)
        assert day_j(fleet) == 5.0
        fleet.wait_until(lambda: bool(gateway.events("store.snapshot")), "a snapshot")
        gateway.signal_group(signal.SIGKILL)
        gateway.popen.wait()
        connection = apsw.Connection(str(tmp_path / "state" / "ledger.db"))
        connection.execute("UPDATE quotas SET day_j = 1e9")
        connection.close()
        gateway = fleet.start_gateway()
        listening(fleet)
        (event,) = gateway.events("store.recovered")
        assert event["settlements_lost"] == 0
        assert (Path(event["kept"]) / "ledger.db").exists()
        assert day_j(fleet) == 5.0
