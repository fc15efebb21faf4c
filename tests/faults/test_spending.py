"""Samples of the ledger's faults; in full: ``python -m tests.faults.ledger_campaign``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.overspend import overspend, wrong
from tests.faults.spending import killed

pytestmark = [pytest.mark.system, pytest.mark.faults]

SAMPLE_S = 3.0


async def test_a_shared_budget_is_never_exceeded(tmp_path: Path) -> None:
    tally = await overspend(tmp_path, seconds=SAMPLE_S, seed=3)
    assert wrong(tally) == []
    assert tally.refused > 0


async def test_control_without_the_stop_it_is(tmp_path: Path) -> None:
    assert wrong(await overspend(tmp_path, seconds=SAMPLE_S, seed=3, stop=False))


async def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    truth = await killed(tmp_path, kills=2, seed=7)
    assert truth.wrong == []
    assert len(truth.told_j) > 0
