"""Live gateways for the tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.live import Live, live_gateway


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway without nodes."""
    async with live_gateway(tmp_path) as live:
        yield live
