"""What is special about text queries: what they cost on each arm, and which arms fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.execution.panel import Confidence
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.gateway.placement import ANYWHERE, Place, place, placed, placement_of
from orchestrator.planning.planner import Standing
from orchestrator.routing.figures import Pricer, Reading, first_token_ms, next_token_ms
from orchestrator.routing.lone import priced
from orchestrator.routing.plan import Plan
from orchestrator.routing.text_figures import TextFigures
from orchestrator.types import Arm, Done, TextQuery

EMBEDDINGS = "embeddings"
_BYTE: np.dtype[np.uint8] = np.dtype(np.uint8)
# Prices the plan in force for one query.
Shape = Callable[[Standing, ArmBoard], Standing]


class Demand(NamedTuple):
    """A text query against the arms of this moment: what it costs on every arm, and which may run it at all."""

    figures: TextFigures
    place: Place
    reading: Reading

    def shape(self, standing: Standing, board: ArmBoard) -> Standing:
        """The plan in force, priced for this text; where none of its routes fits, all arms that do."""
        plan, table = self.place.shape(standing, board)
        return Standing(plan, priced(table, self.figures))


class Demands:
    """What queries ask of the arms of a board; what hangs on no prompt is kept as long as the same arms are there."""

    def __init__(self, board: ArmBoard) -> None:
        self._board = board
        self._pricer = Pricer(board)
        self._places: dict[tuple[str, str | None, frozenset[str]], Place] = {}
        self._version = -1

    def of(self, query: TextQuery) -> Demand:
        """What a query asks of the arms.

        Raises:
            RequestError: CAPABILITY_MISSING, PROMPT_TOO_LONG, EXPERT_NOT_FOUND.
            EdgewiseError: BUDGET_INFEASIBLE where no arm starts or goes on as fast as is asked.
        """
        reading = Reading(query)
        figures = self._pricer.figures(reading)
        able = self._able(query)
        fitting = _quick(query, figures, _roomy(query, figures, able.fitting))
        return Demand(figures, able if fitting is able.fitting else place(query, fitting, self._board), reading)

    def _able(self, query: TextQuery) -> Place:
        """The arms that may run such a query and can, as far as its prompt and its pace are no matter."""
        if placement_of(query) is not ANYWHERE:
            return place(query, _capable(query, placed(query, self._board)), self._board)
        version = self._board.available_changes.version
        if self._version != version:
            self._places.clear()
            self._version = version
        key = query.task.name, query.expert, query.needs
        found = self._places.get(key)
        if found is None:
            found = place(query, _capable(query, placed(query, self._board)), self._board)
            # Names that no expert has are whatever clients make up.
            if found.fitting:
                self._places[key] = found
        return found


def suits(query: TextQuery, arm: Arm) -> bool:
    """Whether an arm, awake or not, could run a query as far as names, tags and capabilities go."""
    able = arm.text.capabilities if arm.text else frozenset()
    return query.expert in (None, arm.expert) and placement_of(query).allows(arm) and query.needs <= able


def _capable(query: TextQuery, arms: list[ArmState]) -> list[ArmState]:
    def able(state: ArmState) -> bool:
        can = state.arm.text.capabilities if state.arm.text else frozenset()
        # What makes embeddings writes no texts unless it says that it does.
        return query.needs <= can and (EMBEDDINGS in query.needs or EMBEDDINGS not in can or "chat" in can)

    fitting = [state for state in arms if able(state)]
    if arms and not fitting:
        wanted = ", ".join(sorted(query.needs or {"chat"}))
        raise RequestError(
            "CAPABILITY_MISSING", f"No expert of this task declares: {wanted}.", metadata={"needs": wanted}
        )
    return fitting


def _roomy(query: TextQuery, figures: TextFigures, arms: Sequence[ArmState]) -> Sequence[ArmState]:
    """Those of these arms that the prompt fits; the same sequence where it fits all."""
    share = _longest_share(query) if query.parameters.embed else 1.0
    short: list[int] = []
    for state in arms:
        room = state.arm.text.context_tokens if state.arm.text else 0
        if room and not figures.cost_n[state.index].prompt_tokens * share < room:
            short.append(state.index)
    if not short:
        return arms
    fitting = [state for state in arms if state.index not in short]
    if not fitting:
        most = max(state.arm.text.context_tokens for state in arms if state.arm.text)
        got = min(figures.cost_n[state.index].prompt_tokens for state in arms) * share
        raise RequestError(
            "PROMPT_TOO_LONG",
            f"The prompt has about {got:.0f} tokens; the experts of this task take at most {most}.",
            field="messages",
            metadata={"maxTokens": str(most), "gotTokens": f"{got:.0f}"},
        )
    return fitting


def _longest_share(query: TextQuery) -> float:
    """Of all bytes those of the longest message: texts for embeddings are read each by itself."""
    sizes = [len(message.content.encode()) for message in query.messages]
    return max(sizes) / max(1, sum(sizes))


def _quick(query: TextQuery, figures: TextFigures, arms: Sequence[ArmState]) -> Sequence[ArmState]:
    first, further = query.max_ttft_ms, query.max_tpot_ms
    if first is None and further is None:
        return arms
    firsts = {state.index: first_token_ms(figures, state.index) for state in arms}
    nexts = {state.index: next_token_ms(figures, state.index) for state in arms}
    fitting = [
        state
        for state in arms
        if (first is None or firsts[state.index] <= first) and (further is None or nexts[state.index] <= further)
    ]
    if arms and not fitting:
        raise EdgewiseError(
            "BUDGET_INFEASIBLE",
            f"No expert starts and goes on so fast; the least are {min(firsts.values()):.3g} ms to the first token"
            f" and {min(nexts.values()):.3g} ms for each further one.",
            metadata={"minTtftMs": repr(float(min(firsts.values()))), "minTpotMs": repr(float(min(nexts.values())))},
            field="budget",
        )
    return fitting


def most_tokens(reading: Reading) -> int:
    """Tokens that a query can cost at most: no tokenizer makes more than one of a byte."""
    return reading.max_tokens + reading.whole.size_bytes + 8 * len(reading.whole.messages)


def features(query: TextQuery) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """What the gate reads."""
    return np.frombuffer(query.prompt.encode(), _BYTE)


def as_told(_expert: str, done: Done) -> float | None:
    """An answer's margin, where nothing was learned of what it means."""
    return done.margin_fraction


def confidence_of(plan: Plan | None, query: TextQuery) -> Confidence:
    """How sure one may be of an expert's answer to a query, by what was learned of such answers to such prompts."""
    if plan is None or plan.answers is None:
        return as_told
    texts, row_of = plan.answers
    # Most answers are one expert's and nobody asks how sure it is; of those of a cascade, several may be asked about.
    foreseen = cache(partial(texts.foreseen, query.prompt))

    def confidence(expert: str, done: Done) -> float | None:
        if done.margin_fraction is None or expert not in row_of:
            return done.margin_fraction
        return texts.confidence(row_of[expert], done.margin_fraction, done.completion_tokens, foreseen=foreseen())

    return confidence
