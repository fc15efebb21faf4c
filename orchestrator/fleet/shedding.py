"""When a node's queue is kept shorter than budgets would let it be: under sustained overload.

Requests are admitted while their answers come within their limits, so that a burst may use all of its callers' time.
Under sustained overload that queue stands: whoever gets in waits nearly all of that time, and no more is answered for
it. The queue stands when a request was refused, another one after as long as that would have waited at most, and the
node was busy meanwhile. From then on newcomers are let in only while no more work waits than keeps the node busy: where
demand is a little above what the node does that is a long queue, where it is far above, none (`shortest_queue`).
It ends when nobody was refused for as long, or when the node was not busy, as where demand comes in bursts.

Who is refused comes again, so that refusals by themselves could keep a queue short for ever. So it is let grow once in
a while, ever more seldom: where it then refuses nobody, as where callers who all have the time to wait are left, it is
over; where it does, it is short again. Nobody is refused early for long where nobody would have been otherwise.

After CoDel (Nichols and Jacobson, doi 10.1145/2208917.2209336): delay that lasts, not length, tells a queue that does
harm. Its interval is a round trip, after which senders could have reacted; here it is the time that a caller gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

# Part of a node's time that a shorter queue may cost.
IDLE_FRACTION = 0.05
# A node that had this part of its slots free was not busy; twice the above, as what is counted is counted over few.
MOST_IDLE_FRACTION = 0.1
# With as many, or more, demand that is a tenth above what is done keeps all busy without a queue to speak of.
MOST_SLOTS = 128
# A short queue is let grow after so many times of what a request waits at most, though for the first time after at most
# a minute; then after twice as long, and so on.
TRY_AFTER, TRY_AFTER_MOST, FIRST_TRY_S = 16.0, 512.0, 60.0
# Passes between an answer and the work that takes its place: the hop there and back, the gateway's own time.
GAP_MS = 8.0


class Load(Protocol):
    """What is under way on a node: its slots, and the work there and ever sent."""

    concurrency: int
    pending: int
    pending_ms: float
    sent: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Requests that were refused because of a node's queue, and maybe of others' too.

    Args:
        part: How many, each divided by the nodes that might have done it.
        count: How many.
    """

    part: float
    count: float

    def share_of(self, slots: int, demand: float) -> float:
        """A node's share of the shortest queue of all nodes that might have done them: whatever comes is for them all.

        Args:
            slots: Of the node; the others are taken to have as many.
            demand: As of `shortest_queue`.
        """
        nodes = max(1.0, self.count / self.part)
        waiting = shortest_queue(min(MOST_SLOTS, round(slots * nodes)), demand)
        return math.ceil(waiting / nodes) if waiting < math.inf else math.inf


@dataclass
class Shedding:
    """How many pieces of work may wait on one node before newcomers are refused.

    Args:
        room: Beyond those that run; infinite unless the queue stands.
        since_s: When a request was refused with whom the time began that is looked at; minus infinity: none.
        lapses_s: When that is too long ago.
        tries_s: When a short queue is let grow.
        kept: The room before that; infinite unless it is tried.
        pause_s: How much later the next time is than the last.
        within_s: What a request waits at most.
        done: Pieces of work that were done by then ...
        sent: ... and that were sent.
        idle_s: Seconds of slots that were free since.
        free: Slots that are free now.
        seen_s: Up to when `idle_s` counts.
    """

    room: float = math.inf
    since_s: float = -math.inf
    lapses_s: float = -math.inf
    tries_s: float = math.inf
    kept: float = math.inf
    pause_s: float = 0.0
    within_s: float = 0.0
    done: int = 0
    sent: int = 0
    idle_s: float = 0.0
    free: int = 0
    seen_s: float = 0.0

    def turned_away(self, load: Load, now_s: float, *, within_s: float, refused: Refused) -> None:
        """A request was refused because of this queue, and a short queue would have let it in.

        Args:
            load: The node's.
            now_s: Monotonic; at least `within_s` after `since_s`.
            within_s: What the request would have waited at most, its own work included.
            refused: How many were since then, this one included.
        """
        tried, short = self.kept < math.inf, self.room < math.inf
        self.follow(load, now_s)
        self.within_s = within_s
        if self.kept < math.inf and not tried:
            # It is let grow from now on; this request was refused before.
            return
        if tried and self.kept < math.inf:
            # It was let grow, and had to refuse somebody again.
            self.room, self.kept = self.kept, math.inf
            self.pause_s = min(2.0 * self.pause_s, TRY_AFTER_MOST * within_s)
        elif self.since_s > -math.inf:
            done, sent = load.sent - load.pending - self.done, load.sent - self.sent
            busy = self.idle_s <= MOST_IDLE_FRACTION * (now_s - self.since_s) * load.concurrency
            demand = (sent + refused.part) / done if done else math.inf
            self.room = refused.share_of(load.concurrency, demand) if busy else math.inf
        if self.room < math.inf and not short:
            self.pause_s = self.pause_s or min(TRY_AFTER * within_s, FIRST_TRY_S)
            self.tries_s = now_s + self.pause_s
        self.since_s, self.lapses_s = now_s, now_s + 2.0 * within_s
        self.done, self.sent = load.sent - load.pending, load.sent
        self.idle_s, self.seen_s, self.free = 0.0, now_s, max(0, load.concurrency - load.pending)

    def follow(self, load: Load, now_s: float) -> None:
        """Work was sent or is done; where nobody was refused for long, the overload is over and all is as before it."""
        if now_s > self.lapses_s:
            self.room, self.since_s, self.lapses_s = math.inf, -math.inf, -math.inf
            self.tries_s, self.kept, self.pause_s = math.inf, math.inf, 0.0
        elif self.room < math.inf and now_s >= self.tries_s:
            self.room, self.kept = math.inf, self.room
            self.since_s, self.lapses_s = -math.inf, now_s + 2.0 * self.within_s
        self.idle_s += self.free * (now_s - self.seen_s)
        self.free, self.seen_s = max(0, load.concurrency - load.pending), now_s

    def closed_ms(self, load: Load) -> float:
        """For how long newcomers are refused, as far as is known now; 0 where they are let in."""
        if self.room == math.inf or load.pending < load.concurrency:
            return 0.0
        mean_ms = load.pending_ms / load.pending
        if mean_ms <= 0.0:
            return 0.0
        room = self.room + load.concurrency * GAP_MS / mean_ms
        return max(0, math.ceil(load.pending + 1 - load.concurrency - room)) * mean_ms / load.concurrency


def shortest_queue(slots: int, demand: float) -> float:
    """How many must be let wait so that slots are free for no more than `IDLE_FRACTION` of their time.

    Of M/M/c/(c+k): arrivals independent of each other, exponential times of work. Even times need fewer.

    Args:
        slots: Pieces of work that run at once.
        demand: What comes, by what is done; above 1.

    Returns:
        k, infinite where demand is no more than what is done.

    Cost: one step a slot.
    """
    if demand <= 1.0:
        return math.inf
    # Chances of so many busy slots by that of all of them being busy and nobody waiting.
    ratio, some, idle = 1.0, 0.0, 0.0
    for busy in range(slots, 0, -1):
        ratio *= busy / (slots * demand)
        some += ratio
        idle += ratio * (slots - busy + 1) / slots
    missing = max(0.0, idle / IDLE_FRACTION - some)
    if missing <= 1.0:
        return 0.0
    return math.ceil(math.log1p((demand - 1.0) * missing) / math.log(demand) - 1.0)
