"""A sample of the replicas' campaign; in full, with its control: ``python -m tests.faults.replicas``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from deploy import postgres
from tests.faults.replicas import replicas, shared

pytestmark = [pytest.mark.system, pytest.mark.faults]


async def test_two_replicas_never_spend_one_budget_twice(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="NOT RUN: pip install 'edgewise[postgres]'")
    if why := postgres.available():
        warnings.warn(f"the replicas were NOT RUN: {why}", stacklevel=1)
        pytest.skip(f"NOT RUN: {why}")
    with postgres.server() as conninfo:
        told = await replicas(tmp_path, shared(conninfo), requests=200)
    assert told.missed() == [], told.figures()
