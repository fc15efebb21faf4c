"""Which corrections judge a delta, and what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from nodes.personal.base import Base, Looks
from nodes.personal.expert import DELTA, Judgement, LocalExpert
from nodes.personal.gate import Gate
from nodes.personal.training import _look, open_base, still_better
from nodes.zoo.catalog import DEFAULT_FOLDER
from tests.nodes.personal.host import EXPERT, written

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")


@cache
def scene(rows: int) -> tuple[Base, Looks]:
    base = open_base(DEFAULT_FOLDER / f"{EXPERT}.onnx", None, 8)
    images, labels_n = written()
    return base, _look(base.network, base.weights, images[:rows], labels_n[:rows])


def test_a_fold_judges_what_it_did_not_teach() -> None:
    from nodes.personal.teaching import FEW, MANY, MANY_FROM, teach

    for rows, schedule in ((40, FEW), (MANY_FROM + 10, MANY)):
        base, own = scene(rows)
        taught = teach(base, own, np.arange(rows) % 4, seed=0)
        assert taught.judged_n.mean() == pytest.approx(0.25, abs=0.01)
        assert taught.verdict.judgement.judged == taught.judged_n.sum() == len(taught.verdict.right_n)
        assert taught.verdict.promoted
        assert taught.samples == schedule.first.samples + schedule.last.samples


def test_what_judges_has_no_say_in_what_is_judged() -> None:
    from nodes.personal.delta import nothing
    from nodes.personal.learning import Lesson, Samples, learn, prepare
    from nodes.personal.teaching import FEW

    base, own = scene(40)
    judged_n = np.arange(40) % 4 == 3
    learned = []
    for change in (judged_n, ~judged_n):
        # Other labels for those that judge change nothing; for the others they do.
        for labels_n in (own.labels_n, np.where(change, (own.labels_n + 1) % 10, own.labels_n)):
            lesson = Lesson(
                base.network,
                base.weights,
                Samples(own.images, labels_n),
                Samples(base.replay.images, base.replay.labels_n),
            )
            ground = prepare(lesson, judges_n=judged_n, copies=FEW.copies)
            begin = nothing(base.network, base.weights)
            delta = learn(ground, begin, judges_n=judged_n, recipe=replace(FEW.first, steps=3), seed=0)
            learned.append(delta.arrays[base.network.last.bias])
    np.testing.assert_array_equal(learned[0], learned[1])
    assert not np.array_equal(learned[2], learned[3])


def test_labels_that_say_nothing_promote_nothing() -> None:
    from nodes.personal.teaching import teach

    base, own = scene(40)
    shuffled = replace(own, labels_n=np.random.default_rng(0).permutation(own.labels_n))
    assert not teach(base, shuffled, np.arange(40) % 4, seed=0).verdict.promoted


def test_what_the_expert_in_service_has_learned_does_not_speak_for_it() -> None:
    from nodes.personal.teaching import teach

    base, own = scene(40)
    serials_n = np.arange(40)
    taught = teach(base, own, serials_n % 4, seed=0)
    # It is right wherever the new one is, and on more: as an expert looks on what it has learned.
    wrong = replace(taught, verdict=replace(taught.verdict, right_n=np.zeros(10, np.bool_)))
    hidden = taught.verdict.gate
    wide_open = Gate(hidden.first_fh, hidden.bias_h, hidden.second_h, 1e6)
    current = LocalExpert(1, DELTA, "", wide_open, Judgement(), 40, learned_until=0, delta=taught.delta)
    assert still_better(base, current, own, serials_n, wrong)
    assert not still_better(base, replace(current, learned_until=40), own, serials_n, wrong)
