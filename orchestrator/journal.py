"""What `why` can tell: one entry per finished request, kept in memory, the oldest forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from optimizer.frozen import frozen
from orchestrator.errors import RequestError
from orchestrator.routing.route import Decision
from orchestrator.types import NO_ACCOUNT, Account, Energy, Limits, RoutingRecord, Timings


@frozen
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
        account: What was reserved and charged, and where.
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
    account: Account = NO_ACCOUNT


class Journal:
    """Entries by request id.

    Args:
        keep: Most entries kept.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()

    def resize(self, keep: int) -> None:
        """Keep more or fewer entries from now on."""
        self._keep = keep
        while len(self._entries) > keep:
            self._entries.popitem(last=False)

    def add(self, entry: Entry) -> None:
        """Remember a finished request; a repeated id of one tenant replaces the older one."""
        if not self._keep:
            return
        name = (entry.account.tenant, entry.request_id)
        self._entries.pop(name, None)
        self._entries[name] = entry
        if len(self._entries) > self._keep:
            self._entries.popitem(last=False)

    def amend(self, request_id: str, tenant: str, change: Callable[[Entry], Entry]) -> None:
        """Replace what is remembered of a request, if anything is."""
        entry = self._entries.get((tenant, request_id))
        if entry is not None:
            self._entries[tenant, request_id] = change(entry)

    def get(self, request_id: str, tenant: str | None = None) -> Entry:
        """The entry of a request; that of another tenant is as if there were none.

        Args:
            request_id: As told to the client.
            tenant: Who asks; None for an operator, who may see all.

        Raises:
            RequestError: REQUEST_NOT_FOUND.
        """
        entry = self._entries.get((tenant or "", request_id))
        if entry is None and tenant is None:
            # Seldom, and by hand: a walk through all is good enough.
            names = (name for name in reversed(self._entries) if name[1] == request_id)
            entry = next((self._entries[name] for name in names), None)
        if entry is None:
            raise RequestError(
                "REQUEST_NOT_FOUND",
                f"No such request; the newest {self._keep} finished requests can be explained.",
                metadata={"keep": str(self._keep)},
            )
        return entry
