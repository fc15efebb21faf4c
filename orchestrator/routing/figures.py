"""What routes are priced with: the board's figures, or those of one text on the same arms.

Shape letter: n arms, in the order of the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.fleet.changes import Changes
from orchestrator.fleet.text_arms import HOP_MS, TEMPLATE_TOKENS, TOKENS_MARGIN, TYPICAL_COMPLETION_TOKENS, completions
from orchestrator.prefixes import Chain, Conversation
from orchestrator.residency import missing_j
from orchestrator.routing.turns import TurnRates, hears_bytes, vocabulary
from orchestrator.text_profile import SINGLE_TURN
from orchestrator.types import Arm, Provenance, TextQuery

Floats = NDArray[np.float64]

# Of one text, whose figures stay as they are.
UNCHANGED = Changes()


class Figures(Protocol):
    """Joules, milliseconds and availability of every arm, and what changed of them lately."""

    energy_j_n: Floats
    energy_bound_j_n: Floats
    service_ms_n: Floats
    service_bound_ms_n: Floats
    wait_ms_n: Floats
    wait_bound_ms_n: Floats
    load_ms_n: Floats
    available_n: NDArray[np.bool_]
    closed_ms_n: Floats
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
        turns: What the text costs where several arms write it; None where no arm writes in turns.
        cached_tokens_n: Of these, what each arm has kept from before, typically: in its joules and milliseconds they
            do not count. In no bound: a node may have forgotten, and a promise holds all the same.
    """

    states: Sequence[ArmState]
    energy_j_n: Floats
    energy_bound_j_n: Floats
    service_ms_n: Floats
    service_bound_ms_n: Floats
    wait_ms_n: Floats
    wait_bound_ms_n: Floats
    load_ms_n: Floats
    available_n: NDArray[np.bool_]
    closed_ms_n: Floats
    loaded: bool
    prompt_tokens_n: Floats
    cached_tokens_n: Floats
    turns: TurnRates | None = None
    energy_changes: Changes = UNCHANGED
    latency_changes: Changes = UNCHANGED
    wait_changes: Changes = UNCHANGED
    available_changes: Changes = UNCHANGED


def conversation_of(query: TextQuery, arm: Arm) -> Conversation:
    """What an arm reads of a query."""
    messages = query.messages
    if arm.text is not None and SINGLE_TURN in arm.text.capabilities and not query.parameters.embed:
        messages = tuple(message for message in messages if message.role == "user")[-1:]
    return Conversation(query.prefix_scope, messages)


class _Asked:
    """The query as arms read it, each of the two ways worked out once."""

    def __init__(self, query: TextQuery) -> None:
        self._query = query
        self._read: dict[bool, tuple[int, int, Chain]] = {}
        self.max_tokens = query.parameters.max_tokens
        self.greedy = not query.parameters.temperature

    def by(self, arm: Arm) -> tuple[int, int, Chain]:
        """Bytes, messages and the chain of what an arm reads."""
        alone = arm.text is not None and SINGLE_TURN in arm.text.capabilities
        if alone not in self._read:
            read = conversation_of(self._query, arm)
            self._read[alone] = read.size_bytes, len(read.messages), read.chain()
        return self._read[alone]


def text_figures(board: ArmBoard, query: TextQuery) -> TextFigures:
    """What a text will cost on the arms of its task. Cost: 3 µs an arm."""
    figures = TextFigures(
        board.states,
        board.energy_j_n.copy(),
        board.energy_bound_j_n.copy(),
        board.service_ms_n.copy(),
        board.service_bound_ms_n.copy(),
        board.wait_ms_n.copy(),
        board.wait_bound_ms_n.copy(),
        board.load_ms_n.copy(),
        board.available_n.copy(),
        board.closed_ms_n.copy(),
        board.loaded,
        np.zeros(len(board.states)),
        np.zeros(len(board.states)),
    )
    asked = _Asked(query)
    for state in board.states:
        if state.arm.task == query.task.name and state.arm.text is not None:
            _price(figures, board, state, asked)
    return figures


def _price(figures: TextFigures, board: ArmBoard, state: ArmState, asked: _Asked) -> None:
    track, n = state.text, state.index
    if state.arm.text is None:
        return
    profile = track.profile(state.arm.text)
    mean, high = completions(profile, asked.max_tokens)
    size, messages, chain = asked.by(state.arm)
    prompt_tokens = size * track.tokens_per_byte + TEMPLATE_TOKENS * messages
    cached = track.prefixes.expected_tokens(chain, tokens_per_byte=track.tokens_per_byte, prompt_tokens=prompt_tokens)
    figures.prompt_tokens_n[n], figures.cached_tokens_n[n] = prompt_tokens, cached
    read_tokens = prompt_tokens - cached
    together = track.factor(1 + board.nodes[state.arm.node].pending)
    figures.service_ms_n[n] = ms = track.typically_ms((HOP_MS + profile.cost_ms(read_tokens, mean)) * together)
    bound_ms = track.at_most_ms((HOP_MS + profile.cost_ms(prompt_tokens * TOKENS_MARGIN, high)) * together)
    figures.service_bound_ms_n[n] = max(bound_ms, ms)
    if state.arm.energy.provenance is not Provenance.UNMEASURED:
        typical, bound = board.energy_factors(n)
        load_j = missing_j(state.arm.residency)
        figures.energy_j_n[n] = joules = load_j + profile.cost_j(read_tokens, mean) * typical
        bound_j = load_j + profile.cost_j(prompt_tokens * TOKENS_MARGIN, high) * bound
        figures.energy_bound_j_n[n] = max(bound_j, joules)
    if vocabulary(state.arm) or hears_bytes(state.arm):
        _price_turns(figures, board, state, asked)


def _price_turns(figures: TextFigures, board: ArmBoard, state: ArmState, asked: _Asked) -> None:
    """The same of a text that the arm writes in turns with others."""
    track, n = state.text, state.index
    if state.arm.text is None:
        return
    if figures.turns is None:
        figures.turns = TurnRates.empty(len(board.states), everyone=asked.greedy)
    turns = figures.turns
    profile, prompt_tokens = track.profile(state.arm.text), float(figures.prompt_tokens_n[n])
    mean, high = completions(profile, asked.max_tokens)
    together = track.factor(1 + board.nodes[state.arm.node].pending)
    whole_ms = (HOP_MS + profile.cost_ms(prompt_tokens, mean)) * together
    slower = track.typically_ms(whole_ms) / whole_ms * together
    turns.tokens_bn[:, n] = mean, high
    turns.fixed_kn[1, n] = profile.cost_ms(prompt_tokens, 0.0) * slower + figures.wait_ms_n[n]
    turns.heard_kn[1, n] = profile.prefill_ms_per_token * slower
    turns.written_kn[1, n] = profile.decode_ms_per_token * slower
    turns.excess_kn[1, n] = max(1.0, track.at_most_ms(whole_ms) / track.typically_ms(whole_ms))
    if state.arm.energy.provenance is not Provenance.UNMEASURED:
        typical, bound = board.energy_factors(n)
        turns.fixed_kn[0, n] = missing_j(state.arm.residency) + profile.cost_j(prompt_tokens, 0.0) * typical
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
    grown = replace(figures, turns=None if figures.turns is None else figures.turns.grown(more))
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
    return float(figures.wait_bound_ms_n[n]) + state.text.at_most_ms(prefill_ms)


def next_token_ms(figures: TextFigures, n: int) -> float:
    """Milliseconds of every further token at the promise's quantile; 0 where nobody knows."""
    state = figures.states[n]
    if state.arm.text is None:
        return 0.0
    profile = state.text.profile(state.arm.text)
    tokens, _ = completions(profile, TYPICAL_COMPLETION_TOKENS)
    typical_ms = HOP_MS + profile.cost_ms(float(figures.prompt_tokens_n[n]), tokens)
    return profile.decode_ms_per_token * state.text.at_most_ms(typical_ms) / typical_ms


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
