"""What a delta will gain for its user, as far as a handful of corrections can tell. Numpy only.

It gains where the global expert is wrong and it is right, and loses where it is the other way round:
``gain = wrong * repaired - right * spoilt``. How often the global expert is wrong on a user all corrections tell, for
it has learned from none. How much of that a delta repairs, and what it spoils, tell the few that it did not learn from;
where those are too few, what deltas did for other users speaks. Each share is a beta distribution, whose counts are
lent by those others and grow by what is seen.

Errors are of two kinds. *Near* ones, whose right label was the global expert's second or third guess, are believed,
less those that wrong labels, which land anywhere, would give by chance. *Far* ones may be such labels, or a user's own
symbols: they count for little until some were seen to be repaired.
Source of all numbers: 38 tuning users (20 writers with habits of their own, 5 with mild ones, 5 with
none, 5 with 15 % wrong labels, 3 with nothing but wrong labels) at 20, 100 and 300 corrections.
Shapes: n samples, c classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal.base import Looks

Rights = NDArray[np.bool_]

# The gain must stand out of what is not known by so many standard deviations; further while corrections are few.
SURE_Z, FEW_SURE_Z, FEW = 0.5, 0.75, 60
# What chance explains is taken off with so many standard deviations of it.
CHANCE_Z = 0.5
NEAR_RANK = 3
# Corrections must cover this share of the classes, or a class for so many of them.
COVERED_FRACTION = 0.5
PER_CLASS = 4


@dataclass(frozen=True)
class Share:
    """A share that is not known exactly, as a beta distribution."""

    yes: float
    no: float

    def seen(self, yes_n: Rights, *, chance: float = 0.0) -> Share:
        """After looking at some more.

        Args:
            chance: So many of those that are true say nothing.
        """
        yes = max(float(yes_n.sum()) - chance, 0.0)
        return Share(self.yes + yes, self.no + len(yes_n) - yes)

    @property
    def mean(self) -> float:
        """Expected."""
        return self.yes / (self.yes + self.no)

    @property
    def variance(self) -> float:
        """Of what is not known."""
        return self.mean * (1.0 - self.mean) / (self.yes + self.no + 1.0)


@dataclass(frozen=True)
class Kind:
    """Errors of a kind: how common they are, and how many a delta repairs."""

    wrong: Share
    repaired: Share


NEAR = Kind(Share(0.8, 10.0), Share(3.0, 3.0))
FAR = Kind(Share(0.3, 10.0), Share(0.2, 1.3))
SPOILT = Share(1.2, 60.0)


@dataclass(frozen=True)
class Prospect:
    """What a delta will gain.

    Attributes:
        gain: Expected, in accuracy.
        deviation: Standard deviation of it.
        covered: Whether the corrections are of enough classes.
        sure_z: Standard deviations that the gain must stand out by.
    """

    gain: float
    deviation: float
    covered: bool
    sure_z: float = SURE_Z

    @property
    def good(self) -> bool:
        """Whether the delta may answer."""
        return self.covered and self.gain > self.sure_z * self.deviation


def prospect(own: Looks, judged_n: Rights, right_n: Rights) -> Prospect:
    """What the corrections say.

    Args:
        own: All of them.
        judged_n: Those that what is judged did not learn from.
        right_n: Where it is right on those.
    """
    wrong_n, near_n = ~own.right_n, _near(own)
    classes = own.probabilities_nc.shape[1]
    far_n = wrong_n & ~near_n
    # Were the far ones wrong labels: so many of those would be near, and be guessed.
    nearby, guessed = (NEAR_RANK - 1) / max(classes - NEAR_RANK, 1), 1.0 / max(classes - 1, 1)
    spoilt = SPOILT.seen(~right_n[own.right_n[judged_n]])
    gain, variance, right = 0.0, 0.0, 1.0
    for kind, kind_n, near, guess in ((NEAR, wrong_n & near_n, nearby, 0.0), (FAR, far_n, 0.0, guessed)):
        repaired_n = right_n[kind_n[judged_n]]
        wrong = kind.wrong.seen(kind_n, chance=_most(near * float(far_n.sum())))
        repaired = kind.repaired.seen(repaired_n, chance=_most(guess * len(repaired_n)))
        gain += wrong.mean * repaired.mean
        variance += wrong.mean**2 * repaired.variance + (repaired.mean + spoilt.mean) ** 2 * wrong.variance
        right -= wrong.mean
    gain, variance = gain - right * spoilt.mean, variance + right**2 * spoilt.variance
    covered = len(np.unique(own.labels_n)) >= min(COVERED_FRACTION * classes, len(own) / PER_CLASS)
    return Prospect(gain, variance**0.5, covered, FEW_SURE_Z if len(own) < FEW else SURE_Z)


def _most(expected: float) -> float:
    """What luck hardly exceeds where so much is expected of it."""
    return expected + CHANCE_Z * math.sqrt(expected)


def _near(samples: Looks) -> Rights:
    """Where the label is among the global expert's first guesses."""
    own_n = samples.probabilities_nc[np.arange(len(samples)), samples.labels_n]
    near_n: Rights = (samples.probabilities_nc > own_n[:, None]).sum(axis=1) < NEAR_RANK
    return near_n
