"""A sample of the join storm; in full: ``python -m tests.faults.join_storm``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.processes import Fleet
from tests.faults.join_storm import join_storm
from tests.faults.join_storm_found import Size

pytestmark = [pytest.mark.system, pytest.mark.faults]


async def test_nodes_that_come_at_once_are_taken_in(tmp_path: Path) -> None:
    with Fleet(tmp_path, one_session=True) as fleet:
        found = await join_storm(
            fleet, Size(crowds=2, nodes=10, storms=1, strange=0, restarts=1, phase_s=1.5, rest_s=1.0)
        )
    assert found.missed() == [], found.figures()
    assert len(found.back.storm_ms[0]) > 75
    # One plan for the first, one for the storm, one for its end, one for the return: not one for each node.
    assert found.plans <= 8
