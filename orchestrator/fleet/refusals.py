"""Requests that were refused because of nodes' queues: counted by arm, and told to the nodes when they are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.load import NodeLoad
from orchestrator.fleet.shedding import Refused

Floats = NDArray[np.float64]


class Board(Protocol):
    """The arms, their nodes, and by arm: when the time began that is looked at, and what was refused since."""

    nodes: dict[str, NodeLoad]
    since_s_n: Floats
    refused_n: Floats
    refused_part_n: Floats

    @property
    def states(self) -> Sequence[Any]:
        """The arms."""
        ...

    def set_wait(self, load: NodeLoad) -> None:
        """A node takes more or less from now on."""
        ...


class Refusals:
    """See `orchestrator.fleet.shedding`.

    Args:
        board: Arms and nodes.
        clock: Monotonic seconds.
    """

    def __init__(self, board: Board, clock: Callable[[], float]) -> None:
        self._board, self._clock = board, clock
        # When a node's overload may be over the next time.
        self._lapses_s = math.inf

    def turned_away(self, arms: NDArray[np.intp], within_s: float) -> None:
        """See `ArmBoard.turned_away`."""
        if not len(arms):
            return
        board, now_s = self._board, self._clock()
        if now_s > self._lapses_s:
            self._lapse(board.nodes, now_s)
        board.refused_part_n[arms] += 1.0 / len(arms)
        board.refused_n[arms] += 1.0
        due = arms[now_s - board.since_s_n[arms] >= within_s]
        for node in {board.states[index].arm.node for index in due.tolist()}:
            load = board.nodes[node]
            if load.pending >= load.concurrency:
                refused = Refused(board.refused_part_n[load.arms].sum(), board.refused_n[load.arms].max())
                load.shedding.turned_away(load, now_s, within_s=within_s, refused=refused)
                board.since_s_n[load.arms] = now_s
                board.refused_part_n[load.arms] = board.refused_n[load.arms] = 0.0
                self._lapses_s = min(self._lapses_s, load.shedding.lapses_s)
                board.set_wait(load)

    def _lapse(self, nodes: Mapping[str, NodeLoad], now_s: float) -> None:
        """Open nodes whose overload is over though no work came or went that would have told."""
        for load in nodes.values():
            if -math.inf < load.shedding.lapses_s < now_s:
                self._board.set_wait(load)
        ahead_s = (load.shedding.lapses_s for load in nodes.values())
        self._lapses_s = min((one_s for one_s in ahead_s if one_s > -math.inf), default=math.inf)
