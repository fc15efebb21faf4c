"""Mode ``routed``: what can run for one query, with its weighted worth and joules.

Shape letters: q queries, n arms, o options.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.selection.utility import Floats

if TYPE_CHECKING:
    from optimizer.selection.problem import Problem


@dataclass(frozen=True)
class Options:
    """What a policy chooses from for each query; doing nothing, for nothing, is always possible too.

    Args:
        panels: Arms that run together, by index.
        worth_qo: Weighted worth: w_q · worth(panel, q).
        energy_qo: Weighted joules: w_q · Σ over the panel of e[q, i]. Averages come out per unit of weight.
    """

    panels: tuple[tuple[int, ...], ...]
    worth_qo: Floats
    energy_qo: Floats


def options_of(problem: Problem, active: tuple[int, ...], fanout: int) -> Options:
    """Every panel of at most `fanout` of the active arms. Arms too slow for a query's class do not run for it."""
    panels = tuple(
        panel for size in range(1, min(fanout, len(active)) + 1) for panel in itertools.combinations(active, size)
    )
    weights_q, allowed_qn = problem.weights_q, problem.allowed_qn
    worth_qo = np.empty((problem.utility.queries, len(panels)))
    energy_qo = np.empty_like(worth_qo)
    joules_qn = np.where(allowed_qn, problem.run_energy_qn, 0.0)
    for o, panel in enumerate(panels):
        worth_qo[:, o] = weights_q * problem.utility.worth_q(panel, allowed_qn)
        energy_qo[:, o] = weights_q * joules_qn[:, list(panel)].sum(axis=1)
    return Options(panels, worth_qo, energy_qo)
