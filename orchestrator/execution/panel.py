"""What the experts of a text query have said that was held back, and which of it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optimizer.routes.route import Route
from optimizer.routes.texts import Ballot
from orchestrator.types import Done

# Chance that an expert's answer is right by what it says of itself; None where it gave no margin.
Confidence = Callable[[str, Done], float | None]

_NO_ROUTE = Route.single("nobody")


@dataclass
class Panel:
    """Answers by expert.

    Args:
        confidence: How sure what an answer says of itself makes one of it.
    """

    confidence: Confidence
    answered: dict[str, Done] = field(default_factory=dict)
    ballot: Ballot = field(default_factory=lambda: Ballot(_NO_ROUTE))
    _decided: str | None = None

    def follow(self, route: Route) -> None:
        """A route begins; after a change of route, what its own experts have said before counts."""
        if not self.answered:
            self.ballot.route = route
            return
        self.ballot = Ballot(route)
        for expert, done in self.answered.items():
            if expert in route.experts:
                self.ballot.add(expert, done.text, self.confidence(expert, done))

    def add(self, expert: str, done: Done) -> None:
        """An expert answered."""
        self.answered[expert] = done
        self.ballot.add(expert, done.text, self.confidence(expert, done))

    def texts(self) -> list[str]:
        """The answers in the order in which they came."""
        return [done.text for done in self.answered.values()]

    def decide(self, number: int | None) -> None:
        """A judge found the answer of this number (from 0) right; None where it did not say."""
        if number is not None:
            self._decided = list(self.answered)[number]

    def standing(self) -> tuple[str, Done]:
        """The expert whose answer stands, and the answer. Needs one."""
        if self._decided is not None:
            return self._decided, self.answered[self._decided]
        if len(self.answered) == 1 or not self.ballot.answers:
            return list(self.answered.items())[-1]
        expert = self.ballot.result()[0]
        return expert, self.answered[expert]
