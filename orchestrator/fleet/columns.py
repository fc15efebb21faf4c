"""Figures of all arms as arrays that grow together.

Shape letter: n arms.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Columns:
    """One entry per arm in each array; all are 0 in places that were made and not filled yet."""

    def __init__(self) -> None:
        self.energy_j_n = np.zeros(0)
        self.energy_bound_j_n = np.zeros(0)
        self.service_ms_n = np.zeros(0)
        self.service_bound_ms_n = np.zeros(0)
        self.wait_ms_n = np.zeros(0)
        self.wait_bound_ms_n = np.zeros(0)
        # Part of the wait in which an expert that is not in memory is loaded.
        self.load_ms_n = np.zeros(0)
        # On a routable node; and for how long that takes nothing new, infinite where its queue is full.
        self.available_n = np.zeros(0, dtype=bool)
        self.closed_ms_n = np.zeros(0)
        # Arms whose bound rests on what the fleet shares, and what else it is made of.
        self.borrows_n = np.zeros(0, dtype=bool)
        self.own_ms_n = np.zeros(0)
        self.announced_ms_n = np.zeros(0)
        self.here_ms_n = np.zeros(0)
        # See `Shedding.since_s` of each arm's node, and requests that were refused since because of the arm: in parts
        # where others might have done them, and in all.
        self.since_s_n = np.zeros(0)
        self.refused_part_n = np.zeros(0)
        self.refused_n = np.zeros(0)
        self._rooms: dict[str, np.ndarray[tuple[int], np.dtype[Any]]] = {
            name: column for name, column in vars(self).items() if name.endswith("_n")
        }

    def make_room(self, wanted: int) -> None:
        """So many places; with some to spare behind them, so that many nodes can join one after the other."""
        for name, room in self._rooms.items():
            if len(room) < wanted:
                room = self._rooms[name] = np.concatenate([room, np.zeros(wanted, dtype=room.dtype)])
            setattr(self, name, room[:wanted])
