"""What a delta will gain, as far as corrections tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nodes.personal.base import Looks
from nodes.personal.prospect import Prospect, prospect


def corrected(ranks: Sequence[int], classes: int = 10) -> Looks:
    """Corrections whose labels are at these places among the global expert's guesses."""
    count = len(ranks)
    labels_n = np.arange(count) % classes
    guesses_nc = np.stack([np.roll(np.linspace(0.3, 0.01, classes), label - rank) for label, rank in enumerate(ranks)])
    features_nf, seen_ng = np.zeros((count, 1), np.float32), np.zeros((count, 1), np.float32)
    return Looks(np.zeros((count, 1, 1), np.float32), labels_n, guesses_nc.astype(np.float32), features_nf, seen_ng)


def foreseen(ranks: Sequence[int], *, wins: int = 0, losses: int = 0) -> Prospect:
    """With a quarter that judges: so many of its errors repaired, and so much of its rest spoilt."""
    own, judged_n = corrected(ranks), np.arange(len(ranks)) % 4 == 3
    right_n = own.right_n[judged_n]
    right_n[np.flatnonzero(~right_n)[:wins]] = True
    right_n[np.flatnonzero(own.right_n[judged_n])[:losses]] = False
    return prospect(own, judged_n, right_n)


def test_near_errors_promise_and_their_absence_does_not() -> None:
    assert not foreseen([0] * 20).good
    assert not foreseen([0] * 300).good
    assert foreseen([0, 0, 1, 0] * 5).good
    # The same figures, but of what was judged most was spoilt.
    assert not foreseen([0, 0, 1, 0] * 5, losses=5).good
    assert foreseen([0, 0, 0, 1] * 5, wins=2).gain > foreseen([0, 0, 0, 1] * 5).gain


def test_labels_that_land_anywhere_promise_nothing_until_errors_were_seen_to_be_repaired() -> None:
    anywhere = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 10
    assert not foreseen(anywhere).good
    # The control: the same labels, and most of them repaired, as own symbols are.
    assert foreseen(anywhere, wins=20).good


def test_a_user_of_one_class_is_not_covered() -> None:
    judged_n = np.arange(20) % 4 == 3
    own = corrected([1] * 20)
    assert prospect(own, judged_n, np.ones(5, np.bool_)).good
    alone = replace(own, labels_n=np.zeros(20, np.int64), probabilities_nc=np.tile(own.probabilities_nc[0], (20, 1)))
    assert prospect(alone, judged_n, np.ones(5, np.bool_)).gain > 0.0
    assert not prospect(alone, judged_n, np.ones(5, np.bool_)).good
