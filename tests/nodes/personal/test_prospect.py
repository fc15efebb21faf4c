"""What a delta will gain, as far as corrections tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from nodes.personal.base import Base, Looks, prior
from nodes.personal.gate import closed
from nodes.personal.judging import judge_delta
from nodes.personal.onnx_file import read_network
from nodes.personal.prospect import Prospect, prospect
from nodes.zoo.catalog import DEFAULT_FOLDER

FIELDS = [field.name for field in fields(Looks)]


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


# ---- what the instant head shows


def user(rows: int, *, wrong_every: int) -> tuple[Base, Looks]:
    """Corrections of somebody whose every so-many-th digit the global expert takes for the next one.

    A feature of their own tells those apart, so that the instant head can repair them.
    """
    rng = np.random.default_rng(0)
    network, weights = read_network((DEFAULT_FOLDER / "digits-lenet5.onnx").read_bytes(), 8)

    def looks(count: int, wrong_n: np.ndarray) -> Looks:
        labels_n = rng.integers(10, size=count)
        guessed_n = (labels_n + wrong_n) % 10
        probabilities_nc = np.full((count, 10), 0.02, np.float32)
        probabilities_nc[np.arange(count), guessed_n] = 0.82
        features_nf = np.concatenate([np.eye(10)[guessed_n], np.eye(10)[labels_n] * wrong_n[:, None]], axis=1)
        features_nf = (features_nf + rng.normal(0, 0.05, features_nf.shape)).astype(np.float32)
        # Another hand: the gate tells the user apart by what it sees.
        seen_ng = rng.normal(2.0 * (count == rows), 0.3, (count, 6)).astype(np.float32)
        return Looks(np.zeros((count, 1, 1), np.float32), labels_n, probabilities_nc, features_nf, seen_ng)

    replay, stored = looks(500, np.zeros(500, np.int64)), looks(900, np.zeros(900, np.int64))
    own = looks(rows, (np.arange(rows) % wrong_every == 0).astype(np.int64))
    labels = tuple(map(str, range(10)))
    return Base("e", "digits", "", labels, network, weights, replay, stored, prior(replay)), own


def promoted(base: Base, own: Looks) -> bool:
    """With a fourth that judges, on which the delta repaired nothing and spoilt four."""
    judged_n = np.arange(len(own)) % 4 == 3
    right_n = own.right_n[judged_n]
    right_n[np.flatnonzero(right_n)[:4]] = False
    gate = closed(own.seen_ng.shape[1])
    assert not prospect(own, judged_n, right_n).good
    return judge_delta(gate, own, judged_n, right_n, drop=0.0, base=base).promoted


def test_a_delta_may_answer_where_the_instant_head_gains_beyond_doubt() -> None:
    assert promoted(*user(200, wrong_every=15))
    # The controls: too few corrections, a gain that may be luck, and corrections of one class.
    assert not promoted(*user(56, wrong_every=5))
    assert not promoted(*user(200, wrong_every=150))
    base, own = user(200, wrong_every=15)
    ones_n = own.labels_n == own.labels_n[0]
    alone = Looks(*(np.repeat(getattr(own[ones_n], name), 10, axis=0)[:200] for name in FIELDS))
    assert not promoted(base, alone)
