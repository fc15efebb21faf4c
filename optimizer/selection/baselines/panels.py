"""Mode ``routed``: what sets of eligible arms are worth, from options that are made once.

Shape letters: q queries, o options, n eligible arms.
"""

from __future__ import annotations

import numpy as np

from optimizer.selection.baselines.ground import Ground
from optimizer.selection.options import Options
from optimizer.selection.pricing import Policy, best_policy
from optimizer.selection.utility import Bools


class Panels:
    """The options of all eligible arms together; those of a set are some of its columns.

    Args:
        ground: Of a routed problem.

    Attributes:
        limit_j: On the mean energy.
        member_on: Which arms each option's panel needs.
    """

    def __init__(self, ground: Ground) -> None:
        assert ground.problem.routing is not None
        self._options = ground.problem.options(ground.arms)
        self.limit_j = ground.problem.routing.mean_energy_j
        at = {arm: n for n, arm in enumerate(ground.arms)}
        self.member_on = np.zeros((len(self._options.panels), len(ground.arms)), dtype=np.bool_)
        for o, panel in enumerate(self._options.panels):
            self.member_on[o, [at[arm] for arm in panel]] = True
        self._known: dict[bytes, Policy] = {}

    @property
    def queries(self) -> int:
        """Number of rows."""
        return len(self._options.worth_qo)

    @property
    def scale(self) -> float:
        """Worth without any limit: what rounding is relative to."""
        return float(self._options.worth_qo.max(axis=1, initial=0.0).sum())

    def within_o(self, chosen_n: Bools) -> Bools:
        """Which options need no other arm, (o,)."""
        return np.asarray(~self.member_on[:, ~chosen_n].any(axis=1))

    def options(self, keep_o: Bools) -> Options:
        """Some of the options; the panels themselves are left out."""
        return Options((), self._options.worth_qo[:, keep_o], self._options.energy_qo[:, keep_o])

    def policy(self, chosen_n: Bools) -> Policy:
        """The best policy of a set; remembered."""
        if not chosen_n.any():
            return Policy(0.0, 0.0, 0.0)
        key = chosen_n.tobytes()
        if key not in self._known:
            self._known[key] = best_policy(self.options(self.within_o(chosen_n)), self.limit_j)
        return self._known[key]

    def value(self, chosen_n: Bools) -> float:
        """The objective of a set."""
        return self.policy(chosen_n).value
