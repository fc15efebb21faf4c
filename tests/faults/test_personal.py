"""Samples of the kills of what writes users' experts; in full: ``python -m tests.faults.personal_kills``."""

from __future__ import annotations

import random
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from nodes.personal.expert import CURRENT
from tests.faults.personal_kills import (
    found_after,
    kill_promotion,
    picture_training,
    struck,
    taught_folder,
    taught_text_folder,
    text_training,
)

pytestmark = [pytest.mark.system, pytest.mark.faults]


def test_a_killed_promotion_leaves_a_whole_expert(tmp_path: Path) -> None:
    chance = random.Random(3)
    assert [kill_promotion(tmp_path / str(run), chance) for run in range(4)] == ["whole"] * 4


@pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")
def test_a_killed_training_leaves_what_was_there(tmp_path: Path) -> None:
    chance, user = random.Random(4), taught_folder(tmp_path / "user")
    command = picture_training(user)
    for _ in range(3):
        struck(command, chance.uniform(0.0, 4.0))
        assert found_after(user) == "whole"


@pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")
def test_a_killed_training_of_a_text_expert_leaves_what_was_there(tmp_path: Path) -> None:
    chance, user = random.Random(5), taught_text_folder(tmp_path / "user")
    command = text_training(user)
    assert struck(command, 0.0) is None
    assert found_after(user) == "whole"
    assert not (user / CURRENT).exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert (user / CURRENT).exists()
    struck(command, chance.uniform(0.0, 4.0))
    assert found_after(user) == "whole"
