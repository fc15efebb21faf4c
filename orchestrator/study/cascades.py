"""Cascades of a plan: two or three arms that one arm of the selection problem stands for.

Shape letters: q prompts, m models, n arms, k cascades, c task classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.selection.arms import Arm
from optimizer.study.cascades import Cascade, find_cascades, widened
from optimizer.study.estimates import means_by
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Wide:
    """A table with the cascades that are worth a column.

    Args:
        table: Models, then cascades.
        cascades: Of the last columns.
        goes_on_qk: Where the second stage runs, by calibrations that had not seen the prompt.
    """

    table: Table
    cascades: tuple[Cascade, ...] = ()
    goes_on_qk: Bools | None = None


def with_cascades(table: Table, foreseen_qm: Floats) -> Wide:
    """Find cascades on a whole table.

    Args:
        table: Models alone, with signals.
        foreseen_qm: Estimated qualities, by fits that had not seen the prompt.
    """
    tasks = int(table.task_q.max()) + 1
    cost_qm = means_by(table.task_q, table.joules_qm, groups=tasks)[table.task_q]
    cascades, goes_on_qk = find_cascades(table, foreseen_qm, cost_qm, seed=0)
    return Wide(widened(table, cascades, goes_on_qk), cascades, goes_on_qk)


@dataclass(frozen=True)
class Placed:
    """A cascade on arms.

    Args:
        arm: For the selection problem; its milliseconds and those in `latency_c` are its stages' sums. Its joules are
            the mean in mode ``routed``; otherwise those of all its arms, any of which may run.
        column: Of the cascade in the wide table.
        joules_q: Of the first stage, and of the second where it goes on.
        latency_c: Milliseconds at the plan's quantile with all stages run.
    """

    arm: Arm
    column: int
    joules_q: Floats
    latency_c: Floats


@dataclass(frozen=True)
class Ground:
    """The single arms that cascades are placed on: joules per prompt (q, n) and milliseconds per class (c, n)."""

    arms: Sequence[Arm]
    joules_qn: Floats
    latency_cn: Floats
    routed: bool

    def placed(self, wide: Wide) -> Iterator[Placed]:
        """Every cascade on the arms with the fewest joules, on the fastest, and on each node that has all it needs."""
        goes_on_qk = wide.goes_on_qk
        if goes_on_qk is None:
            return
        for k, one in enumerate(wide.cascades):
            experts = [wide.table.models[m] for m in (*one.first, one.second)]
            for places in self._placements(experts):
                yield self._at(places, wide.table.plain + k, wide.table.models[wide.table.plain + k], goes_on_qk[:, k])

    def _placements(self, experts: list[str]) -> list[tuple[int, ...]]:
        of = [[n for n, arm in enumerate(self.arms) if arm.expert == expert] for expert in experts]
        found = [
            tuple(min(choices, key=lambda n: (self.arms[n].energy_j, n)) for choices in of),
            tuple(min(choices, key=lambda n: (self.arms[n].latency_ms, n)) for choices in of),
        ]
        for node in dict.fromkeys(arm.node for arm in self.arms):
            here = [[n for n in choices if self.arms[n].node == node] for choices in of]
            if all(here):
                found.append(tuple(choices[0] for choices in here))
        return list(dict.fromkeys(found))

    def _at(self, places: tuple[int, ...], column: int, name: str, goes_on_q: Bools) -> Placed:
        *first, second = places
        members = [self.arms[n] for n in dict.fromkeys(places)]
        joules_q = self.joules_qn[:, first].sum(axis=1) + goes_on_q * self.joules_qn[:, second]
        # Two arms side by side take as long as the slower one, two samples of one as long as both.
        beside_cn = self.latency_cn[:, first]
        stage_c = beside_cn.sum(axis=1) if len({*first}) < len(first) else beside_cn.max(axis=1)
        latency_c = stage_c + self.latency_cn[:, second]
        mean_j, all_j = float(joules_q.mean()), sum(self.arms[n].energy_j for n in places)
        nodes = "+".join(dict.fromkeys(arm.node for arm in members))
        arm = Arm(
            name=f"{name}@{'+'.join(self.arms[n].node for n in places)}" if nodes else name,
            expert=name,
            node=nodes,
            energy_j=mean_j if self.routed else all_j,
            latency_ms=float(latency_c.max()),
            memory_bytes=sum(arm.memory_bytes for arm in members),
            members=tuple(members),
        )
        return Placed(arm, column, joules_q, latency_c)
