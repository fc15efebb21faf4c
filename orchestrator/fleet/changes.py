"""What changed lately, for readers that keep what they derive from it: a version, and which arms it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

# Readers that are further behind go through everything.
KEEP = 1024


class Changes:
    """Changes of one kind of figure. A reader that has seen a version asks what came `since`."""

    def __init__(self) -> None:
        self.version = 0
        self._recent: deque[Sequence[int]] = deque(maxlen=KEEP)

    def note(self, arms: Sequence[int]) -> None:
        """Figures of these arms (indices on the board) changed. The sequence must not change later."""
        self.version += 1
        self._recent.append(arms)

    def since(self, version: int) -> set[int] | None:
        """Arms that changed after a version; None where that is too long ago to tell."""
        missed = self.version - version
        if version < 0 or missed > len(self._recent):
            return None
        return {arm for arms in islice(reversed(self._recent), missed) for arm in arms}
