"""The planner on its bench, for every test here that asks for it."""

import asyncio
from typing import Any

import pytest

from tests.orchestrator.planning.bench import Bench


@pytest.fixture
async def bench() -> Any:
    bench = Bench()
    yield bench
    assert not bench.task.done(), bench.task
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)
