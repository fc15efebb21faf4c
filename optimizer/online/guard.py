"""Never worse than the best single expert: a sequential test that may be looked at after every request.

Each observation is a difference: what the gate's choice was worth minus what the best single expert's would have been.
While the gate is in force the test gathers evidence that the mean difference is below -tolerance; when the evidence
reaches its limit, the best single expert takes over. While that one is in force, the mirrored test gathers evidence
that the gate is worth it again.

The evidence is money won by betting against the hypothesis that is in force. Under the hypothesis no bet wins on
average, so the wealth is a supermartingale and exceeds 1/δ at *any* time with probability at most δ (Ville). The
initial money is spread over bet sizes and over starting times (weight 1 / (k (k+1)) for the k-th request), so that a
gate that goes bad after a long good time is caught as quickly as one that was bad at first: what was lost on old bets
is not what new bets are made with. The k-th stay in force gets δ / (k (k+1)): over all stays together, false alarms
have probability at most δ.

Source: betting on bounded means: Waudby-Smith, Ramdas (arXiv 2010.09686); restarts: e-detectors, Shin, Ramdas, Rinaldo
(arXiv 2203.03532), here with summable weights, which keeps a probability rather than a rate of false alarms.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from optimizer.errors import OptimizerError

# Bet sizes, as shares of the largest that cannot lose everything: halving down to differences of about a point.
BETS = tuple(0.5**k for k in range(1, 9))


class InForce(StrEnum):
    """Who decides."""

    GATE = "gate"
    BEST_SINGLE = "best_single"


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """What is promised.

    Args:
        tolerance: The gate may be worse by this much on average.
        false_alarm_fraction: Probability, over the whole life of the guard, that a gate within tolerance is ever set
            aside; the same for a gate beyond it that is put back.
        reach: Differences lie within ±reach.

    Raises:
        OptimizerError: Out of range.
    """

    tolerance: float = 0.005
    false_alarm_fraction: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < self.reach < math.inf:
            raise OptimizerError("tolerance must be at least 0 and below reach, which must be finite.")
        if not 0.0 < self.false_alarm_fraction < 1.0:
            raise OptimizerError("false_alarm_fraction must be between 0 and 1.")


@dataclass(slots=True)
class Wealth:
    """Money won against "the mean of x is at most 0", for x of at least -reach.

    Args:
        reach: The largest loss per unit that is bet.
        started: Observations so far.
        won: Per bet size: what the money that has been put to work has become.
    """

    reach: float
    started: int = 0
    won: list[float] = field(default_factory=lambda: [0.0] * len(BETS))

    @property
    def total(self) -> float:
        """The wealth: what was won, and what has not been put to work yet."""
        return math.fsum(self.won) / len(BETS) + 1.0 / (self.started + 1.0)

    def bet(self, x: float) -> float:
        """Put the next share to work, take one outcome; returns the wealth."""
        self.started += 1
        share = 1.0 / (self.started * (self.started + 1.0))
        odds = x / self.reach
        self.won = [(won + share) * (1.0 + bet * odds) for won, bet in zip(self.won, BETS, strict=True)]
        return self.total


class Guard:
    """See the module.

    Args:
        terms: What is promised.

    Cost: 3 µs per observation.
    """

    def __init__(self, terms: GuardTerms | None = None) -> None:
        self.terms = GuardTerms() if terms is None else terms
        self.in_force = InForce.GATE
        self.stays = 1
        self.observations = 0
        self._sum = 0.0
        self._wealth = self._purse()

    def _purse(self) -> Wealth:
        return Wealth(self.terms.reach + self.terms.tolerance)

    @property
    def limit(self) -> float:
        """The wealth at which the one in force is set aside."""
        stay = (self.stays + 1) // 2
        return stay * (stay + 1.0) / self.terms.false_alarm_fraction

    @property
    def evidence_fraction(self) -> float:
        """How far the evidence has come, on a logarithmic scale: 1 sets the one in force aside."""
        return max(0.0, math.log(self._wealth.total) / math.log(self.limit))

    @property
    def mean_difference(self) -> float:
        """Of the stay in force; NaN before its first observation."""
        return self._sum / self._wealth.started if self._wealth.started else math.nan

    def observe(self, difference: float) -> bool:
        """Take one difference; true where it changed who is in force.

        Raises:
            OptimizerError: A difference beyond the stated reach: the bound would not hold.
        """
        terms = self.terms
        if not abs(difference) <= terms.reach:
            raise OptimizerError(f"A difference must lie within ±{terms.reach:g}.")
        self.observations += 1
        self._sum += difference
        sign = -1.0 if self.in_force is InForce.GATE else 1.0
        if self._wealth.bet(sign * (difference + terms.tolerance)) < self.limit:
            return False
        self.in_force = InForce.BEST_SINGLE if self.in_force is InForce.GATE else InForce.GATE
        self.stays += 1
        self._sum, self._wealth = 0.0, self._purse()
        return True

    def numbers(self) -> dict[str, object]:
        """For the journal."""
        return {
            "in_force": self.in_force.value,
            "stays": self.stays,
            "observations": self.observations,
            "sum": self._sum,
            "terms": [self.terms.tolerance, self.terms.false_alarm_fraction, self.terms.reach],
            **asdict(self._wealth),
        }

    @classmethod
    def restored(cls, terms: GuardTerms, numbers: dict[str, object]) -> Guard:
        """A guard as it was when `numbers` was called.

        Raises:
            OptimizerError: Something that `numbers` did not write, or that was gathered under other terms.
        """
        guard = cls(terms)
        try:
            if numbers["terms"] != [terms.tolerance, terms.false_alarm_fraction, terms.reach]:
                raise ValueError("other terms")
            guard.in_force = InForce(str(numbers["in_force"]))
            guard.stays, guard.observations = _whole(numbers["stays"]), _whole(numbers["observations"])
            guard._sum = _number(numbers["sum"])
            won = numbers["won"]
            if not isinstance(won, list) or len(won) != len(BETS):
                raise ValueError("won")
            guard._wealth = Wealth(guard._wealth.reach, _whole(numbers["started"]), [_number(value) for value in won])
        except (KeyError, ValueError, TypeError) as error:
            raise OptimizerError(f"These are not the numbers of a guard ({error}).") from error
        return guard


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _whole(value: object) -> int:
    number = _number(value)
    if number != int(number) or number < 0:
        raise ValueError(f"{value!r} is no count")
    return int(number)


def worth(*, quality: float, energy_j: float, price_per_j: float) -> float:
    """What an answer was worth after the price of its joules: differences of it say whether the gate earns them."""
    return quality - price_per_j * energy_j


@dataclass(frozen=True, slots=True)
class Draw:
    """Chance decided who answers: the gate, or the best single expert.

    Args:
        took_gate: Whether the gate's choice ran.
        single_fraction: Probability with which the best single expert was drawn, in (0, 1).
        expected_gate: Predicted worth of the gate's choice.
        expected_single: Predicted worth of the best single expert's answer.
    """

    took_gate: bool
    single_fraction: float
    expected_gate: float
    expected_single: float

    def difference(self, actual: float) -> float:
        """An unbiased difference of the two from the one answer that was given, whatever the predictions are worth.

        What was predicted of both, plus what the one that ran did beyond its prediction, weighed by how rarely it
        runs: good predictions make the difference vary less, bad ones cannot make it wrong on average.

        Args:
            actual: Worth of the answer that was given.

        Source: augmented inverse propensity weighting, Robins, Rotnitzky, Zhao 1994 (JASA 89, 427).
        """
        expected = self.expected_gate - self.expected_single
        if self.took_gate:
            return expected + (actual - self.expected_gate) / (1.0 - self.single_fraction)
        return expected - (actual - self.expected_single) / self.single_fraction


def reach_of_draws(probe_fraction: float) -> float:
    """The `reach` that differences of draws need, for worths that lie within 1 of each other: see `Draw`."""
    return 1.0 + 1.0 / min(probe_fraction, 1.0 - probe_fraction)
