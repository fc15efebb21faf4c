"""What a text costs that several experts write in turns, and who can: pure.

Every expert reads the prompt once and every token once, those that others wrote at the price of a prompt's; only the
tokens of its own turns take a step each. All its nodes wait for each other, so milliseconds add up. A greedy text is
the average of all: every expert steps for every token, side by side. So is one of several vocabularies: its steps are
as many as tokens in the finest of them, typically, and never more than the text may have.

Shape letters: k joules and milliseconds, b typical and bound, n arms, r routes, f experts of a route.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.routes.route import Fusion, Route
from orchestrator.fleet.text_arms import HOP_MS
from orchestrator.types import Arm

Floats = NDArray[np.float64]

# Capabilities of arms: writes in turns with experts elsewhere; writes with those of other vocabularies; mixes experts
# on its own node.
TURNS, BYTES, MIXTURE = "turns", "bytes", "mixture"
# By how many standard deviations an expert's share of the tokens may exceed its weight: one time in a hundred more.
SHARE_DEVIATIONS = 2.33
MOST_EXPERTS = 4


def vocabulary(arm: Arm) -> str:
    """The vocabulary in which an arm takes turns; "" where it takes none."""
    return arm.text.tokenizer_digest if arm.text is not None and TURNS in arm.text.capabilities else ""


def mixes(arm: Arm) -> bool:
    """Whether an arm by itself mixes experts of its own node token by token."""
    return arm.text is not None and MIXTURE in arm.text.capabilities


def vocabularies(arms: Iterable[Arm]) -> dict[str, str]:
    """Vocabularies by expert, of those that take turns."""
    return {arm.expert: digest for arm in arms if (digest := vocabulary(arm))}


def hears_bytes(arm: Arm) -> bool:
    """Whether an arm writes texts with experts of other vocabularies."""
    return arm.text is not None and BYTES in arm.text.capabilities


def spellers(arms: Iterable[Arm]) -> frozenset[str]:
    """Experts that do."""
    return frozenset(arm.expert for arm in arms if hears_bytes(arm))


def turn_routes(ranked: Sequence[str], digests: Mapping[str, str], weights: Mapping[str, float]) -> list[Route]:
    """The best two, three and four experts of each vocabulary, in turns by weight.

    Args:
        ranked: Experts, the best first.
        digests: Vocabularies by expert.
        weights: How often an expert's turn comes, before normalising.
    """
    routes = []
    for digest in sorted(set(digests.values())):
        same = [expert for expert in ranked if digests.get(expert) == digest]
        routes += _together(same, weights, Fusion.TOKEN)
    return routes


def byte_routes(ranked: Sequence[str], able: Collection[str], weights: Mapping[str, float]) -> list[Route]:
    """The best two, three and four of all experts that can, whatever their vocabularies; arguments as above."""
    return _together([expert for expert in ranked if expert in able], weights, Fusion.BYTES)


def _together(experts: Sequence[str], weights: Mapping[str, float], fusion: Fusion) -> list[Route]:
    best = [tuple(experts[:size]) for size in range(2, min(MOST_EXPERTS, len(experts)) + 1)]
    return [Route((some,), fusion=fusion, weights=tuple(weights[expert] for expert in some)) for some in best]


@dataclass(frozen=True)
class TurnRates:
    """What one text costs on every arm, by what it does.

    Args:
        fixed_kn: Once: overhead and prompt.
        heard_kn: For each token that others wrote.
        written_kn: For each token of its own.
        excess_kn: By what the bound exceeds the typical figure.
        tokens_bn: Of the whole answer.
        everyone: Whether the text is greedy.
    """

    fixed_kn: Floats
    heard_kn: Floats
    written_kn: Floats
    excess_kn: Floats
    tokens_bn: Floats
    everyone: bool

    @classmethod
    def empty(cls, arms: int, *, everyone: bool) -> TurnRates:
        """Nothing known of so many arms."""
        fixed_kn, heard_kn, written_kn, excess_kn, tokens_bn = np.zeros((5, 2, arms))
        return cls(fixed_kn, heard_kn, written_kn, excess_kn, tokens_bn, everyone)

    def grown(self, more: int) -> TurnRates:
        """The same with so many arms behind them that came later."""

        def pad(array_kn: Floats) -> Floats:
            return np.pad(array_kn, ((0, 0), (0, more)))

        return TurnRates(
            fixed_kn=pad(self.fixed_kn),
            heard_kn=pad(self.heard_kn),
            written_kn=pad(self.written_kn),
            excess_kn=pad(self.excess_kn),
            tokens_bn=pad(self.tokens_bn),
            everyone=self.everyone,
        )

    def price(
        self, arms_rf: NDArray[np.intp], weight_rf: Floats, bytewise_r: NDArray[np.bool_]
    ) -> tuple[Floats, Floats]:
        """Typical and bounding figures (k, r) of texts that these arms write together.

        Args:
            arms_rf: Padded with any arm.
            weight_rf: Sums to 1 per route; 0 for padding.
            bytewise_r: Whether their vocabularies may differ.
        """
        member_rf = weight_rf > 0.0
        tokens_r = (self.tokens_bn[0, arms_rf] * weight_rf).sum(axis=1)
        finest_r = np.where(member_rf, self.tokens_bn[0, arms_rf], 0.0).max(axis=1)
        tokens_r = np.where(bytewise_r, finest_r, tokens_r)
        everyone_r = bytewise_r | self.everyone
        high_r = np.maximum(np.where(member_rf, self.tokens_bn[1, arms_rf], 0.0).max(axis=1), 1.0)
        spread_rf = SHARE_DEVIATIONS * np.sqrt(weight_rf * (1.0 - weight_rf) / high_r[:, None])
        high_rf = np.minimum(1.0, weight_rf + spread_rf)
        changes_r = 1.0 - (weight_rf**2).sum(axis=1)
        weight_rf, high_rf = (np.where(everyone_r[:, None], member_rf, share_rf) for share_rf in (weight_rf, high_rf))
        changes_r = np.where(everyone_r, 1.0, changes_r)
        typical_krf = self._each(arms_rf, weight_rf, tokens_r, np.ones_like(self.excess_kn), member_rf)
        typical_kr = _added(typical_krf, everyone_r)
        bound_kr = _added(self._each(arms_rf, high_rf, high_r, self.excess_kn, member_rf), everyone_r)
        typical_kr[1] += HOP_MS * (1.0 + tokens_r * changes_r)
        bound_kr[1] += HOP_MS * (1.0 + high_r)
        return typical_kr, np.maximum(bound_kr, typical_kr)

    def _each(
        self,
        arms_rf: NDArray[np.intp],
        share_rf: Floats,
        tokens_r: Floats,
        excess_kn: Floats,
        member_rf: NDArray[np.bool_],
    ) -> Floats:
        """Of each expert of each route (k, r, f), whose shares of the tokens are these."""
        written_rf = share_rf * tokens_r[:, None]
        heard_rf = np.where(member_rf, tokens_r[:, None] - written_rf, 0.0)
        each_krf = (
            self.fixed_kn[:, arms_rf] + self.written_kn[:, arms_rf] * written_rf + self.heard_kn[:, arms_rf] * heard_rf
        )
        excess_krf = excess_kn[:, arms_rf]
        known_krf = np.where(np.isfinite(excess_krf), each_krf, 1.0)
        all_krf: Floats = np.multiply(known_krf, excess_krf, where=member_rf, out=np.zeros_like(each_krf))
        return all_krf


class Together:
    """The bound routes of a table whose experts write one text together.

    Args:
        rows: Their places among all.
        routes: Themselves.
        places: Experts of the longest route of the table.
    """

    def __init__(self, rows: NDArray[np.intp], routes: Sequence[Route], places: int) -> None:
        self.rows = rows
        self._bytewise_r = np.array([route.fusion is Fusion.BYTES for route in routes], dtype=bool)
        # How often whose turn it is, or how much what it says counts.
        self._weight_rf = np.zeros((len(routes), places))
        for row, route in enumerate(routes):
            self._weight_rf[row, : len(route.weights)] = np.array(route.weights) / sum(route.weights)

    def price(self, rates: TurnRates, arms_rf: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Typical and bounding figures (k, r), where these are their arms."""
        return rates.price(arms_rf, self._weight_rf, self._bytewise_r)


def _added(figure_krf: Floats, everyone_r: NDArray[np.bool_]) -> Floats:
    """Of all experts of each route (k, r): milliseconds of those that compute side by side are the slowest one's."""
    total: Floats = figure_krf.sum(axis=2)
    total[1] = np.where(everyone_r, figure_krf[1].max(axis=1), total[1])
    return total
