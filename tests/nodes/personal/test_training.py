"""A delta trained by back-propagation on a node: in a process of its own, judged, promoted, served."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.agent import messages as m
from nodes.personal.office import Office
from tests.nodes.personal.host import ADA, ask, correct, open_office, teach, trained_office, written

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")


async def test_a_delta_is_trained_when_idle_and_beats_the_global_expert(tmp_path: Path) -> None:
    office = await trained_office(tmp_path, range(60))
    images, labels_n = written()
    held = range(200, 320)
    before = np.mean([(await ask_plain(office, images[n])) == labels_n[n] for n in held])
    status = (await office.follow(m.PersonalOrder(1, ADA, "digits", "status"))).status
    assert status.tier == "delta"
    assert status.training_energy_j > 0.0
    assert status.local_fraction > status.global_fraction
    assert status.generic_drop_fraction <= 0.001
    answers = [await ask(office, images[n], f"h{n}") for n in held]
    assert np.mean([label == labels_n[n] for (label, _), n in zip(answers, held, strict=True)]) > before + 0.05
    assert any(by == "local" for _, by in answers)
    await office.close()


async def test_a_spent_allowance_leaves_the_instant_tier(tmp_path: Path) -> None:
    office = await open_office(tmp_path, day_j=0.0)
    report = await teach(office, range(40))
    assert report.status.tier == "instant"
    assert "joules" in report.status.state
    assert (await correct(office, "nothing", 1)).reason == "FEEDBACK_EXPIRED"
    await office.close()


async def ask_plain(office: Office, image: NDArray[np.float32]) -> int:
    """The global expert alone, through a user who was never corrected."""
    return (await ask(office, image, "plain", m.Owner("", "nobody")))[0]
