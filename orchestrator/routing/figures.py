"""What texts cost on the arms of a board.

Shape letter: n arms, in the order of the board.
"""

from __future__ import annotations

import numpy as np

from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.fleet.text_arms import HOP_MS, TEMPLATE_TOKENS, TOKENS_MARGIN, TYPICAL_COMPLETION_TOKENS, completions
from orchestrator.prefixes import Chain, Conversation
from orchestrator.residency import missing_j
from orchestrator.routing.text_figures import FREE, Busy
from orchestrator.routing.text_figures import Figures as Figures
from orchestrator.routing.text_figures import TextFigures as TextFigures
from orchestrator.routing.turns import TurnRates, hears_bytes, vocabulary
from orchestrator.text_profile import SINGLE_TURN, TextProfile
from orchestrator.types import Arm, Provenance, TextQuery


def conversation_of(query: TextQuery, arm: Arm) -> Conversation:
    """What an arm reads of a query."""
    messages = query.messages
    if arm.text is not None and SINGLE_TURN in arm.text.capabilities and not query.parameters.embed:
        messages = tuple(message for message in messages if message.role == "user")[-1:]
    return Conversation(query.prefix_scope, messages)


# Bytes, messages and the chain of what an arm reads.
Read = tuple[int, int, Chain]


class _Asked:
    """The query as arms read it, each of the two ways worked out once."""

    __slots__ = ("_alone", "_query", "_whole", "greedy", "max_tokens")

    def __init__(self, query: TextQuery) -> None:
        self._query = query
        self._whole: Read | None = None
        self._alone: Read | None = None
        self.max_tokens = query.parameters.max_tokens
        self.greedy = not query.parameters.temperature

    def whole(self) -> Read:
        """What most arms read."""
        if self._whole is None:
            self._whole = _read(Conversation(self._query.prefix_scope, self._query.messages))
        return self._whole

    def alone(self, arm: Arm) -> Read:
        """What those read that know no message before the last one."""
        if self._alone is None:
            self._alone = _read(conversation_of(self._query, arm))
        return self._alone


def _read(said: Conversation) -> Read:
    return said.size_bytes, len(said.messages), said.chain()


class _Terms:
    """What an arm as it was announced means for every text."""

    __slots__ = ("alone", "arm", "known", "load", "load_j", "turns")

    def __init__(self, board: ArmBoard, arm: Arm, announced: TextProfile) -> None:
        self.arm = arm
        self.load = board.nodes[arm.node]
        self.load_j = missing_j(arm.residency)
        self.known = arm.energy.provenance is not Provenance.UNMEASURED
        self.alone = SINGLE_TURN in announced.capabilities
        self.turns = bool(vocabulary(arm)) or hears_bytes(arm)


class Pricer:
    """Prices texts on the arms of a board; what neither a text nor learning changes is kept as long as an arm is the
    same."""

    def __init__(self, board: ArmBoard) -> None:
        self._board = board
        self._arms: dict[str, list[ArmState]] = {}
        self._arms_version = -1
        self._terms: dict[int, _Terms] = {}

    def figures(self, query: TextQuery) -> TextFigures:
        """What a text will cost on the arms of its task."""
        board = self._board
        figures, asked = TextFigures(board.states, loaded=board.loaded), _Asked(query)
        for state in self._of_task(query.task.name):
            figures.busy_n[state.index] = self._busy(state.index)
            if state.arm.text is None:
                self._take_over(figures, state.index)
            else:
                self._price(figures, state, state.arm.text, asked)
        return figures

    def _of_task(self, task: str) -> list[ArmState]:
        """All arms of a task: nodes announce no other ones without a change of what is available."""
        version = self._board.available_changes.version
        if self._arms_version != version:
            self._arms.clear()
            self._arms_version = version
        found = self._arms.get(task)
        if found is None:
            found = self._arms[task] = [state for state in self._board.states if state.arm.task == task]
        return found

    def _busy(self, n: int) -> Busy:
        """How an arm stands now."""
        board = self._board
        there, closed_ms = board.available_n.item(n), board.closed_ms_n.item(n)
        if board.loaded:
            waits_ms = board.wait_ms_n.item(n), board.wait_bound_ms_n.item(n), board.load_ms_n.item(n)
            return Busy(there, closed_ms, *waits_ms)
        # Where no arm has a wait, nobody need look at the waits.
        return FREE if there and not closed_ms else Busy(there, closed_ms)

    def _take_over(self, figures: TextFigures, n: int) -> None:
        """The board's figures, of an arm without a text profile."""
        board = self._board
        figures.prompt_tokens_n[n] = figures.cached_tokens_n[n] = 0.0
        figures.service_ms_n[n] = board.service_ms_n.item(n)
        figures.service_bound_ms_n[n] = board.service_bound_ms_n.item(n)
        figures.energy_j_n[n] = board.energy_j_n.item(n)
        figures.energy_bound_j_n[n] = board.energy_bound_j_n.item(n)

    def _price(self, figures: TextFigures, state: ArmState, announced: TextProfile, asked: _Asked) -> None:
        track, n = state.text, state.index
        terms = self._terms.get(n)
        if terms is None or terms.arm is not state.arm:
            terms = self._terms[n] = _Terms(self._board, state.arm, announced)
        profile = track.profile(announced)
        mean, high = completions(profile, asked.max_tokens)
        size, messages, chain = asked.alone(state.arm) if terms.alone else asked.whole()
        tokens = size * track.tokens_per_byte + TEMPLATE_TOKENS * messages
        cached = 0.0
        if chain:
            rate = track.tokens_per_byte
            cached = track.prefixes.expected_tokens(chain, tokens_per_byte=rate, prompt_tokens=tokens)
        figures.prompt_tokens_n[n], figures.cached_tokens_n[n] = tokens, cached
        own_ms, own_j = profile.cost(tokens - cached, mean)
        most_ms, most_j = profile.cost(tokens * TOKENS_MARGIN, high)
        pending = terms.load.pending
        together = track.factor(1 + pending) if pending else 1.0
        figures.service_ms_n[n] = ms = track.typically_ms((HOP_MS + own_ms) * together)
        figures.service_bound_ms_n[n] = max(track.at_most_ms((HOP_MS + most_ms) * together), ms)
        # What nobody measures counts as 0 joules and is promised to nobody, as on the board.
        figures.energy_j_n[n], figures.energy_bound_j_n[n] = 0.0, np.inf
        if terms.known:
            typical, bound = self._board.energy_factors(n)
            figures.energy_j_n[n] = joules = terms.load_j + own_j * typical
            figures.energy_bound_j_n[n] = max(terms.load_j + most_j * bound, joules)
        if terms.turns:
            _price_turns(figures, self._board, state, asked)


def text_figures(board: ArmBoard, query: TextQuery) -> TextFigures:
    """See `Pricer.figures`, for one text alone."""
    return Pricer(board).figures(query)


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
    turns.fixed_kn[1, n] = profile.cost_ms(prompt_tokens, 0.0) * slower + figures.busy_n[n].wait_ms
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


def first_token_ms(figures: TextFigures, n: int) -> float:
    """Milliseconds until an arm's first token at the promise's quantile, its wait included; 0 where nobody knows."""
    state = figures.states[n]
    if state.arm.text is None:
        return 0.0
    prefill_ms = HOP_MS + state.text.profile(state.arm.text).cost_ms(figures.prompt_tokens_n[n] * TOKENS_MARGIN, 1.0)
    return figures.busy_n[n].wait_bound_ms + state.text.at_most_ms(prefill_ms)


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
