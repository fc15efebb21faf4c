"""The text part: questions with exactly checkable answers, asked under budgets and of the obvious alternatives."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from deploy.demo.levels import LOOSE_MS, STEP_FACTOR, Level, round_up
from deploy.demo.rows import ENERGY_SOURCE, MS_SOURCE
from nodes.zoo.language.catalog import TextCatalog
from nodes.zoo.skills.checking import is_right, normalised
from nodes.zoo.skills.skill import Question
from orchestrator.client import AsyncClient, Budget
from orchestrator.client.types import ArmStatus, FleetStatus, Generated
from orchestrator.errors import EdgewiseError
from orchestrator.types import GenerationParameters, Message

TASK = "skills"
EDGEWISE = "edgewise"
# Answers are a few tokens long; an expert that goes on and on is stopped.
PARAMETERS = GenerationParameters(max_tokens=32, temperature=0.0)
# A promise covers long questions and answers, not only the typical ones that predictions speak of.
LENGTH_FACTOR = 2.0
MIXTURE = "skills-mixture"


@dataclass(frozen=True)
class TextRow:
    """One policy under one budget, in figures of its questions.

    Args:
        budget: What each request was allowed.
        policy: "edgewise" or the name of an alternative, which knows no budget.
        right: Share of answers that are exactly right; a question that was refused counts as wrong.
        j_per_request: Mean joules of what ran.
        p50_ms: Median milliseconds, as the caller saw them.
        admitted_fraction: Share that was not refused.
        arms: How often each arm ran, the busiest first.
    """

    budget: Level
    policy: str
    right: float
    j_per_request: float
    p50_ms: float
    admitted_fraction: float
    arms: dict[str, int]
    ms_source: str = MS_SOURCE
    energy_source: str = ENERGY_SOURCE

    @property
    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Told:
    right: bool
    energy_j: float
    ms: float
    arms: tuple[str, ...]
    admitted: bool = True


Ask = Callable[[Question], Awaitable[_Told]]


class TextRuns:
    """Runs of the same questions, each one row.

    Args:
        client: Of the gateway.
        catalog: Experts and questions that none of them has seen.
        status: The fleet before the first question.
        questions: How many are asked per row.
        advance: Called after each question.
    """

    def __init__(
        self,
        client: AsyncClient,
        catalog: TextCatalog,
        *,
        status: FleetStatus,
        questions: int,
        advance: Callable[[], None],
    ) -> None:
        self._client = client
        self._advance = advance
        self._questions = spread(catalog.test, questions)
        self._experts = [card.name for card in catalog.experts if card.name != MIXTURE]
        self._best = max(catalog.experts, key=lambda card: card.quality.right_fraction).name
        self._cheapest = self._experts[0]
        self._levels = text_levels(status)

    @property
    def total(self) -> int:
        """Questions of all rows together."""
        return (len(self._levels) + 3) * len(self._questions)

    async def rows(self) -> list[TextRow]:
        """Edgewise at three budgets, then the alternatives."""
        rows = [await self._row(level, EDGEWISE, self._within(level)) for level in self._levels]
        free = self._levels[-1]
        rows.append(await self._row(free, f"best single ({short(self._best)})", self._of((self._best,))))
        rows.append(await self._row(free, f"cheapest ({short(self._cheapest)})", self._of((self._cheapest,))))
        rows.append(await self._row(free, "vote of all", self._of(self._experts)))
        return rows

    def _within(self, level: Level) -> Ask:
        async def ask(question: Question) -> _Told:
            started_s = time.monotonic()
            try:
                end = await self._generate(question, None, level.budget)
            except EdgewiseError:
                return _Told(False, 0.0, (time.monotonic() - started_s) * 1e3, (), admitted=False)
            return _told(question, [end], started_s)

        return ask

    def _of(self, experts: Sequence[str]) -> Ask:
        async def ask(question: Question) -> _Told:
            started_s = time.monotonic()
            ends = [await self._generate(question, expert, None) for expert in experts]
            return _told(question, ends, started_s)

        return ask

    async def _generate(self, question: Question, expert: str | None, budget: Budget | None) -> Generated:
        messages = [Message("user", question.prompt)]
        pieces = self._client.generate(messages, task=TASK, parameters=PARAMETERS, expert=expert, budget=budget)
        *_, end = [piece async for piece in pieces]
        assert isinstance(end, Generated)
        return end

    async def _row(self, level: Level, policy: str, ask: Ask) -> TextRow:
        told = []
        for question in self._questions:
            told.append(await ask(question))
            self._advance()
        ran = [one for one in told if one.admitted]
        times = sorted(one.ms for one in ran)
        return TextRow(
            budget=level,
            policy=policy,
            right=sum(one.right for one in told) / len(told),
            j_per_request=math.fsum(one.energy_j for one in ran) / max(1, len(ran)),
            p50_ms=times[len(times) // 2] if times else math.nan,
            admitted_fraction=len(ran) / len(told),
            arms=dict(Counter(arm for one in ran for arm in one.arms).most_common()),
        )


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of the questions, all suites alike."""
    step = max(1, len(questions) // count)
    return list(questions[::step][:count])


def text_levels(status: FleetStatus) -> tuple[Level, ...]:
    """From just above what the cheapest arm promises, by way of the middle one, to no limit."""
    arms = sorted(text_arms(status), key=lambda arm: arm.predicted_energy_j)
    steps = [arms[0], arms[len(arms) // 2]]
    limits = [round_up(LENGTH_FACTOR * STEP_FACTOR * arm.predicted_energy_j) for arm in steps]
    return (*(Level(limit_j, LOOSE_MS) for limit_j in dict.fromkeys(limits)), Level(None, LOOSE_MS))


def text_arms(status: FleetStatus) -> list[ArmStatus]:
    """The arms that answer questions."""
    return [arm for node in status.nodes for arm in node.arms if arm.task == TASK]


def short(expert: str) -> str:
    """An expert's name without the task."""
    return expert.removeprefix("skills-")


def _told(question: Question, ends: Sequence[Generated], started_s: float) -> _Told:
    ms = (time.monotonic() - started_s) * 1e3
    # Ties go to the expert that was asked first.
    given = Counter(normalised(end.text) for end in ends).most_common(1)[0][0]
    energy_j = math.fsum(end.energy.energy_j for end in ends)
    arms = tuple(attempt.arm for end in ends for attempt in end.routing.attempts)
    return _Told(is_right(given, question.answer), energy_j, ms, arms)
