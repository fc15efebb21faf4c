"""Snapshots while the gateway runs: when they are made, how many are kept, and what a damaged store comes back with."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from edgewise.v1 import accounts_pb2
from orchestrator.config import Ledger
from orchestrator.gateway.snapshots import Snapshots
from orchestrator.metrics import Metrics
from orchestrator.store.files import snapshots, verify
from orchestrator.store.sqlite import SqliteDesk
from tests.fakes.live import live_gateway
from tests.orchestrator.gateway.test_accounts import books, limit
from tests.orchestrator.store.test_sqlite import fill

HOUR_S = 3600.0


class Watch:
    """Snapshots of a store with a clock and decisive rows that the test sets."""

    def __init__(self, folder: Path, terms: Ledger) -> None:
        self.path = folder / "ledger.db"
        self.terms = terms
        self.decisive: object = "first"
        self.now_unix_s = 1.7e9
        desk = SqliteDesk(self.path)
        fill(desk, rows=3)
        desk.close()
        self.metrics = Metrics()
        self.made = Snapshots(
            self.path,
            lambda: self.terms,
            decisive=lambda: self.decisive,
            metrics=self.metrics,
            clock_unix_s=lambda: self.now_unix_s,
        )

    async def after(self, seconds: float) -> int:
        """How many there are once so much time has passed."""
        self.now_unix_s += seconds
        await self.made.look()
        return len(snapshots(self.path))


async def test_one_an_hour_and_the_newest_are_kept(tmp_path: Path) -> None:
    watch = Watch(tmp_path, Ledger(snapshots=3))
    assert [await watch.after(seconds) for seconds in (0, 60, HOUR_S - 61, 2)] == [1, 1, 1, 2]
    for _ in range(5):
        await watch.after(HOUR_S)
    kept = snapshots(watch.path)
    assert len(kept) == 3
    assert watch.metrics.snapshot_unix_s == watch.now_unix_s
    assert [verify(snapshot).settlements for snapshot in kept] == [3, 3, 3]
    newest = kept[0]
    await watch.after(HOUR_S)
    assert snapshots(watch.path)[1] == newest


async def test_keys_and_quotas_do_not_wait(tmp_path: Path) -> None:
    watch = Watch(tmp_path, Ledger())
    assert await watch.after(0) == 1
    watch.decisive = "a key was revoked"
    assert await watch.after(5) == 2
    assert await watch.after(5) == 2


async def test_none_where_they_are_off(tmp_path: Path) -> None:
    watch = Watch(tmp_path, Ledger(snapshot_h=0.0))
    watch.decisive = "changed"
    assert await watch.after(HOUR_S * 100) == 0
    watch.terms = Ledger(snapshot_h=1.0)
    assert await watch.after(0) == 1


async def test_a_disk_that_takes_none_does_not_stop_the_gateway(tmp_path: Path) -> None:
    watch = Watch(tmp_path, Ledger())
    (tmp_path / "snapshots").write_text("in the way")
    await watch.made.look()
    assert watch.metrics.snapshot_unix_s == 0.0
    (tmp_path / "snapshots").unlink()
    # Not at every look: what failed is tried again after the interval.
    assert await watch.after(5) == 0
    assert await watch.after(HOUR_S) == 1


@pytest.mark.parametrize("snapshot", [True, False])
async def test_a_revoked_key_stays_revoked_when_the_store_comes_back(tmp_path: Path, snapshot: bool) -> None:
    # The gateway's own are off: those of this test come when it wants them.
    async with live_gateway(tmp_path, ledger=Ledger(snapshot_h=0.0)) as live:
        await limit(live, "fleet", day_j=10.0)
        stub = books(live)
        made = await stub.CreateKey(accounts_pb2.CreateKeyRequest(tenant="anne", role="admin"), timeout=5)
        keys, now_unix_s = live.gateway.keys, [1.7e9]
        copying = Snapshots(
            tmp_path / "ledger.db",
            Ledger,
            decisive=lambda: tuple(keys.all()),
            metrics=Metrics(),
            clock_unix_s=lambda: now_unix_s[0],
        )
        await copying.look()
        await stub.RevokeKey(accounts_pb2.RevokeKeyRequest(key_id=made.key.key_id), timeout=5)
        if snapshot:
            now_unix_s[0] += 5.0
            await copying.look()
            assert len(snapshots(tmp_path / "ledger.db")) == 2
    connection = apsw.Connection(str(tmp_path / "ledger.db"))
    connection.execute("UPDATE quotas SET day_j = 1e9")
    connection.close()
    async with live_gateway(tmp_path, ledger=Ledger(snapshot_h=0.0)) as live:
        (key,) = live.gateway.keys.all()
        # Control: without the snapshot that a revocation causes, the key opens the door again.
        assert (key.revoked_unix_s is not None) == snapshot
        assert live.gateway.service.till.ledger.quotas["fleet"].day_j == 10.0
        assert b"edgewise_store_recovered 1.0" in live.gateway.service.metrics.render()
