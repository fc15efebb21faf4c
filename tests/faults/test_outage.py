"""Power loss under the ledger: a sample of the seeds that ``python -m tests.faults.ledger_campaign`` runs in full."""

from __future__ import annotations

import random

from tests.faults.outage import outages
from tests.faults.power import Content

SEEDS = range(12)


def test_nothing_acknowledged_is_lost_when_the_power_goes() -> None:
    assert outages(SEEDS) == {"ok": len(SEEDS)}


def test_control_less_than_full_loses_what_was_acknowledged() -> None:
    found = outages(SEEDS, synchronous="NORMAL")
    assert found["ok"] == 0
    assert found["an acknowledged settlement is lost"] > 0


def test_the_disk_keeps_what_was_synced_and_some_of_the_rest() -> None:
    content = Content()
    content.write(0, b"a" * 1024)
    content.sync()
    content.write(512, b"b" * 1024)
    assert bytes(content.seen) == b"a" * 512 + b"b" * 1024
    kept = {
        bytes(
            Content(bytearray(content.seen), bytearray(content.safe), list(content.pending))
            .survivor(random.Random(seed))
            .seen
        )
        for seed in range(40)
    }
    assert b"a" * 1024 in kept
    assert all(found[:512] == b"a" * 512 for found in kept)
    assert len(kept) == 4
