"""What is special about text queries: what they cost on each arm, and which arms fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizer.deciding.model import TaskModel
from optimizer.heads.given import MixedHeads
from optimizer.heads.texts import TextHeads
from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.execution.panel import Confidence
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.planning.planner import Standing
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.figures import TextFigures, first_token_ms, next_token_ms, text_figures
from orchestrator.routing.model import AnnouncedModel
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.types import Arm, TextQuery

# Prices the plan in force for one query.
Shape = Callable[[Standing], Standing]


@dataclass(frozen=True)
class Demand:
    """A text query against the arms of this moment.

    Args:
        figures: What it costs on every arm.
        fitting: Arms of its task that may run it at all.
        unfit: The other arms of its task.
    """

    figures: TextFigures
    fitting: tuple[ArmState, ...]
    unfit: frozenset[int]

    def shape(self, standing: Standing, board: ArmBoard) -> Standing:
        """The plan in force, priced for this text; where none of its routes fits, all arms that do."""
        table = standing.table
        if self.unfit and self.fitting and not table.avoiding(self.unfit).any():
            quality = {state.arm.expert: state.arm.quality_fraction for state in self.fitting}
            energy = {state.arm.expert: float(board.energy_j_n[state.index]) for state in self.fitting}
            plan = Plan("by-need", CombinedModel(AnnouncedModel(quality, energy), quality), None, NO_CERTIFICATE)
            standing = Standing(plan, plan.table(list(self.fitting), board))
        return Standing(standing.plan, standing.table.priced(self.figures))


def demand_of(query: TextQuery, board: ArmBoard) -> Demand:
    """What a query asks of the arms.

    Raises:
        RequestError: CAPABILITY_MISSING, PROMPT_TOO_LONG, EXPERT_NOT_FOUND.
        EdgewiseError: BUDGET_INFEASIBLE where no arm starts or goes on as fast as is asked.
    """
    figures = text_figures(board, query)
    arms = board.arms(query.task.name)
    if query.expert is not None:
        arms = [state for state in arms if state.arm.expert == query.expert]
    fitting = _placed(query, arms)
    fitting = _capable(query, fitting)
    fitting = _roomy(figures, fitting)
    fitting = _quick(query, figures, fitting)
    kept = frozenset(state.index for state in fitting)
    unfit = frozenset(state.index for state in board.arms(query.task.name)) - kept
    return Demand(figures, tuple(fitting), unfit if query.expert is None or fitting else frozenset())


def suits(query: TextQuery, arm: Arm) -> bool:
    """Whether an arm, awake or not, could run a query as far as names, tags and capabilities go."""
    able = arm.text.capabilities if arm.text else frozenset()
    named = query.expert in (None, arm.expert) and (not query.allowed_nodes or arm.node in query.allowed_nodes)
    return named and query.required_tags <= arm.tags and query.needs <= able


def _placed(query: TextQuery, arms: list[ArmState]) -> list[ArmState]:
    nodes, tags = query.allowed_nodes, query.required_tags
    fitting = [state for state in arms if (not nodes or state.arm.node in nodes) and tags <= state.arm.tags]
    if arms and not fitting:
        text = "No connected node that this request allows has an expert with the tags that it requires."
        raise RequestError("CAPABILITY_MISSING", text, field="allowed_nodes" if nodes else "required_tags")
    return fitting


def _capable(query: TextQuery, arms: list[ArmState]) -> list[ArmState]:
    def able(state: ArmState) -> bool:
        return query.needs <= (state.arm.text.capabilities if state.arm.text else frozenset())

    fitting = [state for state in arms if able(state)] if query.needs else arms
    if arms and not fitting:
        wanted = ", ".join(sorted(query.needs))
        raise RequestError(
            "CAPABILITY_MISSING", f"No expert of this task declares: {wanted}.", metadata={"needs": wanted}
        )
    return fitting


def _roomy(figures: TextFigures, arms: list[ArmState]) -> list[ArmState]:
    def fits(state: ArmState) -> bool:
        room = state.arm.text.context_tokens if state.arm.text else 0
        return not room or figures.prompt_tokens_n[state.index] < room

    fitting = [state for state in arms if fits(state)]
    if arms and not fitting:
        most = max(state.arm.text.context_tokens for state in arms if state.arm.text)
        got = min(float(figures.prompt_tokens_n[state.index]) for state in arms)
        raise RequestError(
            "PROMPT_TOO_LONG",
            f"The prompt has about {got:.0f} tokens; the experts of this task take at most {most}.",
            field="messages",
            metadata={"maxTokens": str(most), "gotTokens": f"{got:.0f}"},
        )
    return fitting


def _quick(query: TextQuery, figures: TextFigures, arms: list[ArmState]) -> list[ArmState]:
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
            metadata={"minTtftMs": repr(min(firsts.values())), "minTpotMs": repr(min(nexts.values()))},
            field="budget",
        )
    return fitting


def most_tokens(query: TextQuery) -> int:
    """Tokens that a query can cost at most: no tokenizer makes more than one of a byte."""
    return query.parameters.max_tokens + sum(len(message.content.encode()) + 8 for message in query.messages)


def features(query: TextQuery) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """What the gate reads."""
    return np.frombuffer(query.prompt.encode(), dtype=np.uint8)


def confidence_of(plan: Plan) -> Confidence:
    """How sure an expert's margin makes one of its answer, by what was learned."""
    model = plan.model.model if isinstance(plan.model, CombinedModel) else plan.model
    heads = model.heads if isinstance(model, TaskModel) else None
    if isinstance(heads, MixedHeads):
        # What a margin says of an answer was learned here.
        heads = heads.learned
    if not isinstance(model, TaskModel) or not isinstance(heads, TextHeads):
        return lambda _expert, margin: margin
    texts, row_of = heads, {expert: row for row, expert in enumerate(model.experts)}

    def confidence(expert: str, margin: float | None) -> float | None:
        if margin is None or expert not in row_of:
            return margin
        return texts.confidence(row_of[expert], margin)

    return confidence
