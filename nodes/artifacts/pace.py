"""How much of a model to ask for at a time, so that work on the same stream hardly waits for it. Pure.

A piece that is on the wire holds up what is behind it. So pieces are sized by time: what one takes beyond the shortest
round trip seen is its time on the wire, and that is kept near `TARGET_S`.
"""

from __future__ import annotations

TARGET_S = 0.02
SMALLEST_BYTES, FIRST_BYTES, LARGEST_BYTES = 8 * 1024, 64 * 1024, 512 * 1024


class Pace:
    """Size of the next piece: doubled while pieces are quick, halved when one was slow."""

    def __init__(self, target_s: float = TARGET_S) -> None:
        self._target_s = target_s
        self._shortest_s = float("inf")
        self.piece_bytes = FIRST_BYTES

    def observe(self, elapsed_s: float) -> None:
        """A piece of full size took so long from asking to holding it."""
        self._shortest_s = min(self._shortest_s, elapsed_s)
        on_wire_s = elapsed_s - self._shortest_s
        if on_wire_s > 2.0 * self._target_s:
            self.piece_bytes = max(SMALLEST_BYTES, self.piece_bytes // 2)
        elif on_wire_s < self._target_s:
            self.piece_bytes = min(LARGEST_BYTES, self.piece_bytes * 2)
