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


def test_few_corrections_all_judge_and_many_are_judged_by_one_fold() -> None:
    from nodes.personal.teaching import CROSSED_BELOW, teach

    for rows, share in ((40, 1.0), (CROSSED_BELOW + 10, 0.25)):
        base, own = scene(rows)
        taught = teach(base, own, np.arange(rows) % 4, seed=0)
        assert taught.judged_n.mean() == pytest.approx(share, abs=0.01)
        assert taught.verdict.judgement.judged == taught.judged_n.sum() == len(taught.verdict.right_n)
        assert taught.verdict.promoted
        assert taught.samples > 0


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
    wrong = replace(taught, verdict=replace(taught.verdict, right_n=np.zeros(40, np.bool_)))
    hidden = taught.verdict.gate
    wide_open = Gate(hidden.first_fh, hidden.bias_h, hidden.second_h, 1e6)
    current = LocalExpert(1, DELTA, "", wide_open, Judgement(), 40, learned_until=0, delta=taught.delta)
    assert still_better(base, current, own, serials_n, wrong)
    assert not still_better(base, replace(current, learned_until=40), own, serials_n, wrong)
