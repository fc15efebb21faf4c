"""A text under way that experts on several nodes write together: who writes, what there is of it, what may be spent.

The gateway counts joules: at the promise's quantile of each node's own rates, by what every expert was told to do, so
that the text ends before the first step that is not paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.execution.attempt import Trial
from orchestrator.execution.course import Course
from orchestrator.execution.schedule import Rates, Schedule, paid_tokens
from orchestrator.types import Done, TextQuery


@dataclass
class Member:
    """One expert's part.

    Args:
        index: Its arm on the board.
        known: Steps of the text that it has been told or has written; -1 before it has begun.
        trial: Its work, once it has begun.
        done: What it said in the end.
        lost: Whether it failed.
        ended: Whether the text ended with what it wrote.
        calls: In a text of several vocabularies, steps for which it computed.
        extra_tokens: And what it read in these beside one token for each.
    """

    index: int
    known: int = -1
    trial: Trial | None = None
    done: Done | None = None
    lost: bool = False
    ended: bool = False
    calls: int = 0
    extra_tokens: int = 0

    def read(self, tokens: int) -> None:
        """It read so many tokens in one call, or in none."""
        self.calls += tokens > 0
        self.extra_tokens += max(0, tokens - 1)


@dataclass
class Ensemble:
    """One text under way.

    Args:
        course: The query.
        query: The same with the seed that all experts share.
        members: Experts in the order of the route.
        schedule: Whose turn comes when.
        bytewise: Whether its experts have no vocabulary in common.
        cap: Steps at which the text ends at the latest.
        tokens: Those written so far, each a step; of a text of several vocabularies `pieces`, the last of which is
            empty where the text has ended by itself.
    """

    course: Course
    query: TextQuery
    members: list[Member]
    schedule: Schedule
    bytewise: bool = False
    cap: int = 0
    tokens: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many there were."""
        return len(self.pieces if self.bytewise else self.tokens)

    @property
    def everyone(self) -> bool:
        """Whether every expert computes for every step."""
        return self.bytewise or not self.query.parameters.temperature

    @property
    def present(self) -> list[Member]:
        """Experts that are not lost."""
        return [member for member in self.members if not member.lost]


def affordable(text: Ensemble) -> int:
    """Steps at which the text must end by what may still be spent."""
    progress, most = text.course.progress, text.query.parameters.max_tokens
    rates = [_rates(text, member) for member in text.members]
    known, allowed_j = [member.known for member in text.members], progress.allowed_j
    for member, rate in zip(text.members, rates, strict=True):
        if member.known >= 0 and not member.lost:
            # What it has done so far it will tell in the end; until then it is reckoned.
            written = member.calls if text.bytewise else member.known
            allowed_j -= rate.once_j + rate.written_j * written + rate.heard_j * member.extra_tokens
    if text.everyone:
        left = [rate for member, rate in zip(text.members, rates, strict=True) if not member.lost]
        begun = text.steps
        once_j = sum(rate.once_j for rate in left) if not begun else 0.0
        each_j = sum(rate.written_j for rate in left)
        more = (allowed_j - once_j) / each_j if each_j > 0.0 else float("inf")
        return int(max(1, min(most, begun + more)))
    return max(1, paid_tokens(text.schedule, rates, allowed_j=allowed_j, known=known, most=most))


def recount(text: Ensemble) -> None:
    """End the text earlier, where what may still be spent has become less."""
    text.cap = min(text.cap, affordable(text))


def _rates(text: Ensemble, member: Member) -> Rates:
    turns, n = text.course.figures.turns, member.index
    if turns is None or (excess := float(turns.excess_kn[0, n])) == float("inf"):
        return Rates(0.0, 0.0, 0.0)
    return Rates(*(float(joules_kn[0, n]) * excess for joules_kn in (turns.fixed_kn, turns.heard_kn, turns.written_kn)))
