"""Whether a local expert may answer: it must beat what answers now for its user and keep the generic bound. Numpy only.

Shapes: n samples, f features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal import instant
from nodes.personal.base import Base, HasStored, Looks
from nodes.personal.expert import Judgement
from nodes.personal.gate import Gate
from nodes.personal.prospect import prospect

# What generic accuracy may lose, on stored generic samples at 80 % confidence.
BOUND_FRACTION = 0.0008
# A win must stand out of luck by so many standard deviations: the instant head is looked at after every correction,
# what learns texts is judged by few.
OFTEN_Z = 1.0
FEW_Z = 1.0
# What is in service stays only where it is the better one by so much.
STAYS_Z = 0.5
# Wins that a delta is lent against an instant head, from so many corrections on; before, none. Source: 25 tuning users,
# of whom 12, 23 and 25 had the better delta at 20, 100 and 300 corrections.
LENT_WINS, LENT_FROM = 10, 60
# Before, an instant head is lent this against a global expert that was wrong so often. Source: 37 tuning users, none of
# whom it served worse at 20 corrections; of 3 more, whose labels were all wrong, one lost 0.8 points.
INSTANT_WINS, LEAST_WRONG = 1, 2
LEAST_JUDGED = 2
# What the instant head gains, each of all corrections left out, by so many standard deviations, a delta gains as well:
# its last layer can be that head. Source: 38 tuning users (habits, mild ones, none, wrong labels) at 100 and 300
# corrections; with one standard deviation, which is what puts the head itself in service, some with mild ones lose.
SHOWN_Z = 2.0

Rights = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Verdict:
    """How a candidate stands.

    Attributes:
        right_n: Where gate and local expert together are right on the user's judged samples.
        promoted: Whether it may answer.
    """

    gate: Gate
    judgement: Judgement
    right_n: Rights
    promoted: bool


def beats(mine_n: Rights, others_n: Rights, *, z: float, lent: int = 0) -> bool:
    """Whether one is right more often than the other by more than luck, `z` standard deviations of it.

    Args:
        lent: Wins that this one is given beside its own; below 0 it is the other that is given them.
    """
    wins = int((mine_n & ~others_n).sum()) + max(lent, 0)
    losses = int((others_n & ~mine_n).sum()) + max(-lent, 0)
    return wins > losses and wins - losses >= z * (wins + losses) ** 0.5 - 1e-9


def calibrated(base: HasStored, gate: Gate, stored_n: Rights) -> Gate:
    """The gate with its threshold set, given where the local expert is right on `base.stored`."""
    loss_n = base.stored.right_n.astype(np.float64) - stored_n
    return gates.calibrate(gate, base.stored.seen_ng, lambda rows: loss_n[rows], bound_fraction=BOUND_FRACTION)[0]


def route(gate: Gate, samples: Looks, local_n: Rights) -> Rights:
    """Where gate and both experts together are right."""
    return np.where(gate.score(samples.seen_ng) > 0.0, local_n, samples.right_n)


def verdict(
    base: HasStored, gate: Gate, *, judged: Looks, right_n: Rights, stored_n: Rights, z: float, lent: int = 0
) -> Verdict:
    """Whether the candidate may answer, by what it wins and loses alone.

    Args:
        gate: With its threshold.
        judged: The user's samples that what is judged did not learn from.
        right_n: Where it and its gate are right on them.
        stored_n: Where it is right on `base.stored`.
        z: See `beats`, and so `lent`.
    """
    loss_n = base.stored.right_n.astype(np.float64) - stored_n
    drop = float(loss_n[gate.score(base.stored.seen_ng) > 0.0].sum() / max(len(loss_n), 1))
    judgement = Judgement(len(judged), float(judged.right_n.mean()), float(right_n.mean()), drop)
    promoted = len(judged) >= LEAST_JUDGED and beats(right_n, judged.right_n, z=z, lent=lent)
    return Verdict(gate, judgement, right_n, promoted)


def judge_delta(gate: Gate, own: Looks, judged_n: Rights, right_n: Rights, *, drop: float, base: Base) -> Verdict:
    """Judge a delta by all that its user's corrections tell: see `prospect`, or what the instant head shows.

    Args:
        gate: With its threshold.
        own: All corrections.
        judged_n: Those that what is judged did not learn from.
        right_n: Where it and its gate are right on those.
        drop: What stored generic samples lose.
    """
    judged = own[judged_n]
    judgement = Judgement(len(judged), float(judged.right_n.mean()), float(right_n.mean()), drop)
    foreseen = prospect(own, judged_n, right_n)
    promoted = len(judged) >= LEAST_JUDGED and (foreseen.good or (foreseen.covered and _shown(base, own)))
    return Verdict(gate, judgement, right_n, promoted)


def _shown(base: Base, own: Looks) -> bool:
    """Whether the instant head's gain on its user is beyond doubt."""
    if len(own) < LENT_FROM:
        return False
    return beats(judge_instant(base, taught_head(base, own), own).right_n, own.right_n, z=SHOWN_Z)


def taught_head(base: Base, own: Looks) -> instant.InstantHead:
    """The instant head of these corrections."""
    head = instant.InstantHead(base.prior)
    for feature_f, lack_c in zip(own.features_nf, instant.residual(own.probabilities_nc, own.labels_n), strict=True):
        head.update(feature_f, lack_c)
    return head


def judge_instant(base: Base, head: instant.InstantHead, own: Looks) -> Verdict:
    """Judge the instant head on its own corrections, each as if it had not been learned (exact leave-one-out)."""
    gate = gates.discriminate_linear(own.seen_ng, base.replay.seen_ng)
    covered = instant.coverage(own.labels_n, len(base.labels))

    def right(scores_nc: NDArray[np.float64], samples: Looks) -> Rights:
        open_n = instant.open_to(samples.probabilities_nc, covered)
        return np.where(open_n, scores_nc.argmax(axis=1) == samples.labels_n, samples.right_n)

    stored = base.stored
    stored_n = right(head.correct_many(stored.features_nf, stored.probabilities_nc), stored)
    gate = calibrated(base, gate, stored_n)
    right_n = route(gate, own, right(head.left_out(own.features_nf, own.probabilities_nc, own.labels_n), own))
    wrong = int((~own.right_n).sum())
    lent = INSTANT_WINS if wrong >= LEAST_WRONG and len(own) < LENT_FROM else 0
    return verdict(base, gate, judged=own, right_n=right_n, stored_n=stored_n, z=OFTEN_Z, lent=lent)
