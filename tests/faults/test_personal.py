"""Samples of the kills of what writes users' experts; in full: ``python -m tests.faults.personal_kills``."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.faults.personal_kills import kill_promotion, kill_training, taught_folder

pytestmark = [pytest.mark.system, pytest.mark.faults]


def test_a_killed_promotion_leaves_a_whole_expert(tmp_path: Path) -> None:
    chance = random.Random(3)
    assert [kill_promotion(tmp_path / str(run), chance) for run in range(4)] == ["whole"] * 4


@pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")
def test_a_killed_training_leaves_what_was_there(tmp_path: Path) -> None:
    chance, user = random.Random(4), taught_folder(tmp_path / "user")
    assert [kill_training(user, chance, longest_s=4.0) for _ in range(3)] == ["whole"] * 3
