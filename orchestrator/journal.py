"""What `why` can tell: one entry per finished request, kept in memory, the oldest forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from orchestrator.errors import RequestError
from orchestrator.routing.route import Decision
from orchestrator.types import Energy, Limits, RoutingRecord, Timings


@dataclass(frozen=True)
class Entry:
    """One finished request.

    Args:
        request_id: As told to the client.
        task: The task class.
        outcome: "answered" or the reason of the error.
        limits: The budget that held; None where the request was refused before it was resolved.
        decision: The first decision with everything it was made on.
        routing: What ran.
        energy: What it cost.
        timings: Where the time went.
        finished_s: Monotonic.
    """

    request_id: str
    task: str
    outcome: str
    limits: Limits | None
    decision: Decision | None
    routing: RoutingRecord
    energy: Energy
    timings: Timings
    finished_s: float


class Journal:
    """Entries by request id.

    Args:
        keep: Most entries kept.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def add(self, entry: Entry) -> None:
        """Remember a finished request; a repeated id replaces the older one."""
        if not self._keep:
            return
        self._entries.pop(entry.request_id, None)
        self._entries[entry.request_id] = entry
        if len(self._entries) > self._keep:
            self._entries.popitem(last=False)

    def get(self, request_id: str) -> Entry:
        """The entry of a request.

        Raises:
            RequestError: REQUEST_NOT_FOUND.
        """
        entry = self._entries.get(request_id)
        if entry is None:
            raise RequestError(
                "REQUEST_NOT_FOUND",
                f"No such request; the newest {self._keep} finished requests can be explained.",
                metadata={"keep": str(self._keep)},
            )
        return entry
