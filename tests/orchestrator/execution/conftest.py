"""Houses that are closed behind each test."""

from collections.abc import AsyncIterator

import pytest

from tests.orchestrator.execution.house import House, MakeHouse
from tests.orchestrator.routing.models import GivenModel


@pytest.fixture
async def make_house() -> AsyncIterator[MakeHouse]:
    houses: list[House] = []

    def make(model: GivenModel, **fields: object) -> House:
        houses.append(House(model, **fields))  # type: ignore[arg-type]
        return houses[-1]

    yield make
    for house in houses:
        await house.close()
        # Whatever happened, no slot stays taken and nothing is owed.
        assert [load.pending for load in house.fleet.board.nodes.values()] == [0] * len(house.nodes)
        assert all(not node.session.pending for node in house.nodes.values())
