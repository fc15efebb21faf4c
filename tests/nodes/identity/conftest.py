"""What an agent with an identity is made of."""

from __future__ import annotations

import dataclasses

import pytest

from nodes.agent.parts import Parts
from nodes.arms import Inventory
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from tests.fakes.energy.worlds import profile
from tests.nodes.agent.engines import FakeEngine


@pytest.fixture
def parts(inventory: Inventory) -> Parts:
    energy = EnergySource(ModelledMeter(profile()), "test device", True, "test")
    # The other one waits for its test.
    quick = tuple(arm for arm in inventory.arms if arm.expert == "tiny")
    return Parts(FakeEngine(), energy, dataclasses.replace(inventory, arms=quick))
