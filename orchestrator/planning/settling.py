"""How long planning waits while nodes come and go.

Nodes that join together are planned for together: planning waits until none has come for a moment, but not for ever;
and the longer a storm of joins lasts, the longer the next plan waits. What came may wait, because the plan in force
serves: an arm that is not planned for yet only does no work. A plan that has lost what it needs does not wait so long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# None has come for so long: all are there.
SETTLE_S = 0.15
# The first plan of a storm waits at most so long, and so does one for a plan that has lost what it needs ...
MAX_SETTLE_S = 1.0
# ... each further plan of the same storm twice as long as the one before, up to this: so 200 nodes that come over four
# seconds are planned for three times instead of five.
MOST_SETTLE_S = 8.0


class Settling:
    """Waits for changes to settle.

    Args:
        bereft: Whether a plan in force has lost what it needs.
        sleep: Waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        bereft: Callable[[], bool],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bereft = bereft
        self._sleep = sleep
        self._clock = clock
        self._patience_s = 0.0

    async def settle(self, wanted: asyncio.Event) -> None:
        """Returns with `wanted` cleared, when it was not set again for a moment or has been set for long enough."""
        started_s = self._clock()
        patience_s = max(self._patience_s, MAX_SETTLE_S)
        while True:
            wanted.clear()
            await self._sleep(SETTLE_S)
            if not wanted.is_set():
                self._patience_s = 0.0
                return
            most_s = MAX_SETTLE_S if self._bereft() else patience_s
            if self._clock() >= started_s + most_s:
                self._patience_s = min(2.0 * patience_s, MOST_SETTLE_S)
                wanted.clear()
                return
