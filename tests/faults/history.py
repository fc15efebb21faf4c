"""What happened to every request of a run, from the client's side and from the gateway's own log, and what it means.

A request is *accepted* unless the gateway refused it at the door. It is *hit* when it was dispatched to the faulty node
while the fault lasted and that node did not answer it; it is *unaffected* when it was never dispatched to that node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# A request that another arm can serve must be answered if it has this much time when the fault strikes.
ENOUGH_LEFT_S = 1.0
TERMINAL_GRACE_S = 0.1
REFUSALS = frozenset({"OVERLOADED", "DRAINING"})
CALM, FAULT = "calm", "fault"


@dataclass(frozen=True)
class Entry:
    """One request.

    Args:
        due_s: Monotonic time at which the open loop had it due.
        end_s: When the client had its answer or error.
        outcome: "ok", "fail" (the gateway said so) or "unknown" (the connection broke).
        dispatched: Nodes that it was sent to, in order, by the gateway's log.
        answered_by: Nodes whose answers are in the reply.
        right: Whether the reply is what the expert answers to this input; None without a reply.
        settled: How many lines the gateway logged for it, and the milliseconds of the last; None where the log is gone.
    """

    request_id: str
    phase: str
    steady: bool
    expert: str
    deadline_s: float
    due_s: float
    end_s: float
    outcome: str
    reason: str = ""
    dispatched: tuple[str, ...] = ()
    answered_by: tuple[str, ...] = ()
    right: bool | None = None
    settled: tuple[int, float] | None = None

    @property
    def latency_s(self) -> float:
        """From due to done."""
        return self.end_s - self.due_s

    @property
    def accepted(self) -> bool:
        """Whether it passed admission, as far as the client can know."""
        return self.reason not in REFUSALS

    def in_time(self) -> bool:
        """Whether both client and gateway had it in a terminal state, once, by its deadline and 100 ms."""
        limit_s = self.deadline_s + TERMINAL_GRACE_S
        if self.settled is not None and (self.settled[0] != 1 or self.settled[1] > limit_s * 1e3):
            return False
        return self.latency_s <= limit_s


def merge_log(entries: Iterable[Entry], lines: Iterable[dict[str, Any]]) -> list[Entry]:
    """The entries with what the gateway's request lines say of them; a request without a line has settled 0 times."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_id.setdefault(line["request_id"], []).append(line)
    merged = []
    for entry in entries:
        found = by_id.get(entry.request_id, [])
        arms = [arm for arm in found[-1]["arms"].split(",") if arm] if found else []
        merged.append(
            replace(
                entry,
                dispatched=tuple(arm.rpartition("@")[2] for arm in arms),
                settled=(len(found), found[-1]["total_ms"] if found else 0.0),
            )
        )
    return merged


@dataclass(frozen=True)
class Fault:
    """What was done to which node, and when it began."""

    node: str
    began_s: float


@dataclass(frozen=True)
class Outcome:
    """One run, or several pooled: counts to judge and latencies to compare."""

    accepted: int
    answered: int
    hit: int
    rescued: int
    overdue: int
    wrong: int
    late_delivered: int
    refused: int
    reasons: tuple[str, ...]
    calm_ms: tuple[float, ...]
    unaffected_ms: tuple[float, ...]
    p99_ratios: tuple[float, ...]
    back_s: tuple[float, ...] = ()

    @property
    def answered_fraction(self) -> float:
        """Of accepted requests that had another arm and enough time: those that got an answer."""
        return self.answered / self.accepted if self.accepted else 0.0

    @property
    def rescued_fraction(self) -> float:
        """The same among those that the fault hit."""
        return self.rescued / self.hit if self.hit else 0.0

    @property
    def p99_ratio(self) -> float:
        """99th percentile of the unaffected over that of the calm phase of the same run: the median over the runs.

        The median, because a machine that is shared has stalls of its own, which fall into either phase.
        """
        return float(np.median(self.p99_ratios)) if self.p99_ratios else math.inf

    @property
    def pooled_p99_ratio(self) -> float:
        """The same percentiles over all runs together: shows also what only few runs suffer from."""
        return p99_ms(self.unaffected_ms) / p99_ms(self.calm_ms)


def p99_ms(latencies_ms: Sequence[float]) -> float:
    """The 99th percentile; infinite without any."""
    return float(np.percentile(latencies_ms, 99)) if latencies_ms else math.inf


def judge(entries: Sequence[Entry], fault: Fault, *, back_s: float | None = None) -> Outcome:
    """Count what became of the requests of one run. All of them have another feasible arm by construction."""
    eligible = [entry for entry in entries if entry.accepted and _left_s(entry, fault) >= ENOUGH_LEFT_S]
    hit = [entry for entry in eligible if was_hit(entry, fault)]
    calm = [entry for entry in entries if entry.phase == CALM and entry.steady]
    unaffected = [
        entry for entry in entries if entry.phase == FAULT and entry.steady and fault.node not in entry.dispatched
    ]
    failed = [entry for entry in eligible if entry.outcome != "ok"]
    calm_ms = tuple(entry.latency_s * 1e3 for entry in calm)
    unaffected_ms = tuple(entry.latency_s * 1e3 for entry in unaffected)
    return Outcome(
        accepted=len(eligible),
        answered=len(eligible) - len(failed),
        hit=len(hit),
        rescued=sum(entry.outcome == "ok" for entry in hit),
        overdue=sum(not entry.in_time() for entry in entries),
        wrong=sum(entry.right is False for entry in entries),
        late_delivered=sum(delivered_late(entry) for entry in entries),
        refused=sum(not entry.accepted for entry in entries),
        reasons=tuple(sorted({entry.reason for entry in failed})),
        calm_ms=calm_ms,
        unaffected_ms=unaffected_ms,
        p99_ratios=(p99_ms(unaffected_ms) / p99_ms(calm_ms),),
        back_s=() if back_s is None else (back_s,),
    )


def was_hit(entry: Entry, fault: Fault) -> bool:
    """Whether the faulty node was asked, had not answered when the fault struck, and did not answer later."""
    return (
        entry.end_s >= fault.began_s
        and entry.phase == FAULT
        and fault.node in entry.dispatched
        and fault.node not in entry.answered_by
    )


def first_answer_s(entries: Iterable[Entry], fault: Fault) -> float:
    """Seconds from the fault to the first answer of the struck node to a request that came after it."""
    ends = [entry.end_s for entry in entries if fault.node in entry.answered_by and entry.due_s > fault.began_s]
    return min(ends, default=float("inf")) - fault.began_s


def delivered_late(entry: Entry) -> bool:
    """Whether a reply came from an arm that had been given up: it must come from the last one asked, and no other."""
    return entry.outcome == "ok" and bool(entry.dispatched) and entry.answered_by != entry.dispatched[-1:]


def _left_s(entry: Entry, fault: Fault) -> float:
    return entry.deadline_s - max(0.0, fault.began_s - entry.due_s)


def pool(outcomes: Sequence[Outcome]) -> Outcome:
    """Several runs as one."""
    return Outcome(
        accepted=sum(one.accepted for one in outcomes),
        answered=sum(one.answered for one in outcomes),
        hit=sum(one.hit for one in outcomes),
        rescued=sum(one.rescued for one in outcomes),
        overdue=sum(one.overdue for one in outcomes),
        wrong=sum(one.wrong for one in outcomes),
        late_delivered=sum(one.late_delivered for one in outcomes),
        refused=sum(one.refused for one in outcomes),
        reasons=tuple(sorted({reason for one in outcomes for reason in one.reasons})),
        calm_ms=tuple(value for one in outcomes for value in one.calm_ms),
        unaffected_ms=tuple(value for one in outcomes for value in one.unaffected_ms),
        p99_ratios=tuple(value for one in outcomes for value in one.p99_ratios),
        back_s=tuple(value for one in outcomes for value in one.back_s),
    )
