"""A live gateway, and OpenAI's own client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.fakes.live import Live, live_gateway


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with live_gateway(tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def openai(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client
