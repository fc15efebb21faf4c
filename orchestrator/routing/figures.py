"""What routes are priced with: the board's figures, or those of one text on the same arms.

Shape letter: n arms, in the order of the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.fleet.changes import Changes
from orchestrator.fleet.text_arms import HOP_MS, TEMPLATE_TOKENS, TOKENS_MARGIN, completions
from orchestrator.residency import missing_j
from orchestrator.routing.turns import TurnRates
from orchestrator.types import Provenance, TextQuery

Floats = NDArray[np.float64]


class Figures(Protocol):
    """Joules, milliseconds and availability of every arm, and what changed of them lately."""

    energy_j_n: Floats
    energy_bound_j_n: Floats
    service_ms_n: Floats
    service_bound_ms_n: Floats
    wait_ms_n: Floats
    load_ms_n: Floats
    available_n: NDArray[np.bool_]
    loaded: bool
    energy_changes: Changes
    latency_changes: Changes
    wait_changes: Changes
    available_changes: Changes

    @property
    def states(self) -> Sequence[ArmState]:
        """The arms."""
        ...

    @property
    def turns(self) -> TurnRates | None:
        """What texts cost that several arms write; None where no text is meant."""
        ...


@dataclass
class TextFigures:
    """What one text will cost on every arm; arms without a text profile keep the board's figures.

    Args:
        prompt_tokens_n: Of the prompt as each arm counts, typically.
        turns: What the text costs where several arms write it.
    """

    states: Sequence[ArmState]
    energy_j_n: Floats
    energy_bound_j_n: Floats
    service_ms_n: Floats
    service_bound_ms_n: Floats
    wait_ms_n: Floats
    load_ms_n: Floats
    available_n: NDArray[np.bool_]
    loaded: bool
    prompt_tokens_n: Floats
    turns: TurnRates
    energy_changes: Changes = field(default_factory=Changes)
    latency_changes: Changes = field(default_factory=Changes)
    wait_changes: Changes = field(default_factory=Changes)
    available_changes: Changes = field(default_factory=Changes)


def prompt_bytes(query: TextQuery) -> int:
    """Bytes of all messages."""
    return sum(len(message.content.encode()) for message in query.messages)


def text_figures(board: ArmBoard, query: TextQuery) -> TextFigures:
    """What a text will cost on the arms of its task. Cost: 3 µs an arm."""
    figures = TextFigures(
        board.states,
        board.energy_j_n.copy(),
        board.energy_bound_j_n.copy(),
        board.service_ms_n.copy(),
        board.service_bound_ms_n.copy(),
        board.wait_ms_n.copy(),
        board.load_ms_n.copy(),
        board.available_n.copy(),
        board.loaded,
        np.zeros(len(board.states)),
        TurnRates.empty(len(board.states), everyone=not query.parameters.temperature),
    )
    size, messages = prompt_bytes(query), len(query.messages)
    for state in board.states:
        if state.arm.task == query.task.name and state.arm.text is not None:
            prompt_tokens = size * state.text.tokens_per_byte + TEMPLATE_TOKENS * messages
            _price(figures, board, state, prompt_tokens=prompt_tokens, max_tokens=query.parameters.max_tokens)
    return figures


def _price(figures: TextFigures, board: ArmBoard, state: ArmState, *, prompt_tokens: float, max_tokens: int) -> None:
    track, n = state.text, state.index
    if state.arm.text is None:
        return
    profile = track.profile(state.arm.text)
    mean, high = completions(profile, max_tokens)
    figures.prompt_tokens_n[n] = prompt_tokens
    together = track.factor(1 + board.nodes[state.arm.node].pending)
    figures.service_ms_n[n] = (HOP_MS + profile.cost_ms(prompt_tokens, mean)) * track.slowness * together
    bound_ms = (HOP_MS + profile.cost_ms(prompt_tokens * TOKENS_MARGIN, high)) * track.slowness_bound * together
    figures.service_bound_ms_n[n] = max(bound_ms, figures.service_ms_n[n])
    turns, slower = figures.turns, track.slowness * together
    turns.tokens_bn[:, n] = mean, high
    turns.fixed_kn[1, n] = profile.cost_ms(prompt_tokens, 0.0) * slower + figures.wait_ms_n[n]
    turns.heard_kn[1, n] = profile.prefill_ms_per_token * slower
    turns.written_kn[1, n] = profile.decode_ms_per_token * slower
    turns.excess_kn[1, n] = track.slowness_bound / track.slowness
    if state.arm.energy.provenance is not Provenance.UNMEASURED:
        typical, bound = board.energy_factors(n)
        load_j = missing_j(state.arm.residency)
        figures.energy_j_n[n] = load_j + profile.cost_j(prompt_tokens, mean) * typical
        bound_j = load_j + profile.cost_j(prompt_tokens * TOKENS_MARGIN, high) * bound
        figures.energy_bound_j_n[n] = max(bound_j, figures.energy_j_n[n])
        turns.fixed_kn[0, n] = load_j + profile.cost_j(prompt_tokens, 0.0) * typical
        turns.heard_kn[0, n] = profile.prefill_j_per_token * typical
        turns.written_kn[0, n] = profile.decode_j_per_token * typical
        turns.excess_kn[0, n] = TOKENS_MARGIN * bound / typical
    else:
        turns.excess_kn[0, n] = np.inf


def covering(figures: TextFigures, arms: int) -> TextFigures:
    """The same figures for a board that has grown since: arms that came later are not available to this text."""
    more = arms - len(figures.energy_j_n)
    if more <= 0:
        return figures
    grown = replace(figures, turns=figures.turns.grown(more))
    for name, value in vars(figures).items():
        if isinstance(value, np.ndarray):
            setattr(grown, name, np.pad(value, (0, more)))
    return grown


def first_token_ms(figures: TextFigures, n: int) -> float:
    """Milliseconds until an arm's first token at the promise's quantile, its wait included; 0 where nobody knows."""
    state = figures.states[n]
    if state.arm.text is None:
        return 0.0
    prefill_ms = HOP_MS + state.text.profile(state.arm.text).cost_ms(figures.prompt_tokens_n[n] * TOKENS_MARGIN, 1.0)
    return float(figures.wait_ms_n[n]) + prefill_ms * state.text.slowness_bound


def next_token_ms(figures: TextFigures, n: int) -> float:
    """Milliseconds of every further token at the promise's quantile; 0 where nobody knows."""
    state = figures.states[n]
    if state.arm.text is None:
        return 0.0
    return float(state.text.profile(state.arm.text).decode_ms_per_token * state.text.slowness_bound)


def affordable_tokens(board: ArmBoard, n: int, *, allowed_j: float, prompt_tokens: float) -> float:
    """Tokens that an arm may generate at most for so many joules at the promise's quantile; infinite without limit."""
    announced = board.states[n].arm.text
    profile = None if announced is None else board.states[n].text.profile(announced)
    known = board.states[n].arm.energy.provenance is not Provenance.UNMEASURED
    if profile is None or not known or profile.decode_j_per_token <= 0.0 or allowed_j == np.inf:
        return np.inf
    _, bound = board.energy_factors(n)
    allowed_j -= missing_j(board.states[n].arm.residency)
    left_j = allowed_j / bound - profile.cost_j(prompt_tokens * TOKENS_MARGIN, 0.0)
    return max(1.0, float(np.floor(left_j / profile.decode_j_per_token)))
