"""A fake gateway on a free port, for the tests of clients and of the command line."""

from collections.abc import Iterator

import pytest

from tests.orchestrator.fake_gateway import FakeGateway


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    with FakeGateway().running() as fake:
        yield fake
