"""A delta in service is judged by the corrections that come after its promotion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nodes.personal.delta import Delta, nothing
from nodes.personal.expert import DELTA, Judgement, LocalExpert
from nodes.personal.gate import HIDDEN, Gate
from nodes.personal.sealing import owner_mark
from nodes.personal.trial import Trial
from tests.nodes.personal.host import ADA, ask, open_office, teach, written


def after(told: str) -> Trial:
    """Corrections: both right, a win, a loss, or both wrong."""
    trial = Trial()
    for one in told:
        trial = trial.after(1, right=one in "bw", global_right=one in "bl")
    return trial


def test_losses_beyond_luck_end_it_and_single_ones_do_not() -> None:
    assert after("blll").failed
    assert after("bwlllll").failed
    for told in ("", "bll", "bwllll", "bwwwl", "bnnnn"):
        assert not after(told).failed, told


def test_a_user_who_only_complains_ends_nothing() -> None:
    assert not after("llllllnn").failed
    assert after("llllllnnb").failed


def test_another_version_begins_anew() -> None:
    assert after("blll").after(2, right=True, global_right=True) == Trial(2, 1)


@pytest.mark.parametrize("harmful", [True, False])
async def test_a_harmful_delta_is_taken_out_of_service(tmp_path: Path, harmful: bool) -> None:
    office = await open_office(tmp_path)
    images, _ = written()
    await ask(office, images[0], "first")
    mark = owner_mark(ADA.tenant, ADA.user)
    hand = office._hands[mark]
    network, weights = hand.base.network, hand.base.weights
    arrays = dict(nothing(network, weights).arrays)
    if harmful:  # Six of ten labels take each other's place.
        order = np.array([1, 2, 3, 4, 5, 0, 6, 7, 8, 9])
        for name in (network.last.weight, network.last.bias):
            arrays[name] = weights[name][order] - weights[name]
    closed = np.zeros((hand.base.stored.seen_ng.shape[1], HIDDEN), np.float32)
    wide_open = Gate(closed, closed[0], closed[0], 1.0)
    delta = Delta(arrays, nothing(network, weights).geometry)
    hand.shelf.promote(LocalExpert(1, DELTA, hand.base.model_digest, wide_open, Judgement(), 0, delta=delta))
    hand.reload()
    await office._serving.place(mark, hand)
    report = await teach(office, range(1, 20))
    assert (report.status.tier == "delta") is not harmful
    await office.close()
