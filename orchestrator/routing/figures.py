"""What texts cost on the arms of a board.

Shape letter: n arms, in the order of the board.
"""

from __future__ import annotations

import numpy as np

from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.fleet.text_arms import HOP_MS, TEMPLATE_TOKENS, TOKENS_MARGIN, TYPICAL_COMPLETION_TOKENS, completions
from orchestrator.prefixes import Conversation
from orchestrator.residency import missing_j
from orchestrator.routing.text_figures import FREE, Busy, Cost
from orchestrator.routing.text_figures import TextFigures as TextFigures
from orchestrator.routing.turns import TurnRates, hears_bytes, vocabulary
from orchestrator.text_profile import SINGLE_TURN, TextProfile
from orchestrator.types import Arm, Provenance, TextQuery


class Reading:
    """A query as arms read it, each of the two ways worked out once: `whole` is what most arms read."""

    __slots__ = ("_alone", "greedy", "max_tokens", "query", "whole")

    def __init__(self, query: TextQuery) -> None:
        self.query = query
        self._alone: Conversation | None = None
        self.whole = Conversation(query.prefix_scope, query.messages)
        self.max_tokens = query.parameters.max_tokens
        self.greedy = not query.parameters.temperature

    def of(self, arm: Arm) -> Conversation:
        """What an arm reads."""
        return self.alone() if _reads_alone(arm) else self.whole

    def alone(self) -> Conversation:
        """What those read that know no message before the last one."""
        if self.query.parameters.embed:
            return self.whole
        if self._alone is None:
            last = tuple(message for message in self.query.messages if message.role == "user")[-1:]
            self._alone = Conversation(self.query.prefix_scope, last)
        return self._alone


def _reads_alone(arm: Arm) -> bool:
    return arm.text is not None and SINGLE_TURN in arm.text.capabilities


class _Terms:
    """What an arm as it was announced and stands on the board means for every text.

    `busy` leaves out what it must wait for.
    """

    __slots__ = ("alone", "arm", "busy", "known", "load", "load_j", "state", "turns")

    def __init__(self, board: ArmBoard, state: ArmState) -> None:
        self.state = state
        self.read(board)

    def read(self, board: ArmBoard) -> None:
        """Take them anew, of another arm than before."""
        self.arm = self.state.arm
        self.load = board.nodes[self.arm.node]
        self.load_j = missing_j(self.arm.residency)
        self.known = self.arm.energy.provenance is not Provenance.UNMEASURED
        self.alone = _reads_alone(self.arm)
        self.turns = bool(vocabulary(self.arm)) or hears_bytes(self.arm)
        self.stand(board)

    def stand(self, board: ArmBoard) -> None:
        """Take anew how the arm stands."""
        there, closed_ms = board.available_n.item(self.state.index), board.closed_ms_n.item(self.state.index)
        self.busy = FREE if there and not closed_ms else Busy(there, closed_ms)


class Pricer:
    """Prices texts on the arms of a board; what neither a text nor learning changes is kept as long as an arm is the
    same."""

    def __init__(self, board: ArmBoard) -> None:
        self._board = board
        self._arms: dict[str, list[_Terms]] = {}
        self._arms_version = -1
        self._terms: dict[int, _Terms] = {}

    def figures(self, reading: Reading) -> TextFigures:
        """What a text will cost on the arms of its task."""
        board = self._board
        figures = TextFigures(board.states, loaded=board.loaded)
        for terms in self._of_task(reading.query.task.name):
            state = terms.state
            if terms.arm is not state.arm:
                # It was announced anew, or its expert loaded or unloaded.
                terms.read(board)
            # Where no arm has a wait, nobody need look at the waits.
            busy = self._waiting(state.index, terms.busy) if board.loaded else terms.busy
            if state.arm.text is None:
                figures.cost_n[state.index] = self._taken_over(state.index, busy)
            else:
                figures.cost_n[state.index] = self._priced(terms, busy, state.arm.text, reading)
            if terms.turns:
                _price_turns(figures, board, state, reading)
        return figures

    def _of_task(self, task: str) -> list[_Terms]:
        """All arms of a task: nodes announce no other ones without a change of what is available."""
        changes = self._board.available_changes
        if self._arms_version != changes.version:
            changed = changes.since(self._arms_version)
            for n in self._terms if changed is None else self._terms.keys() & changed:
                self._terms[n].stand(self._board)
            self._arms.clear()
            self._arms_version = changes.version
        found = self._arms.get(task)
        if found is None:
            found = self._arms[task] = [self._known(state) for state in self._board.states if state.arm.task == task]
        return found

    def _known(self, state: ArmState) -> _Terms:
        terms = self._terms.get(state.index)
        if terms is None:
            terms = self._terms[state.index] = _Terms(self._board, state)
        return terms

    def _waiting(self, n: int, busy: Busy) -> Busy:
        """The same with what an arm must wait for."""
        board = self._board
        waits_ms = board.wait_ms_n.item(n), board.wait_bound_ms_n.item(n), board.load_ms_n.item(n)
        return Busy(busy.available, busy.closed_ms, *waits_ms)

    def _taken_over(self, n: int, busy: Busy) -> Cost:
        """The board's figures, of an arm without a text profile."""
        board = self._board
        ms, bound_ms = board.service_ms_n.item(n), board.service_bound_ms_n.item(n)
        return Cost(
            board.energy_j_n.item(n),
            board.energy_bound_j_n.item(n),
            ms + busy.wait_ms,
            bound_ms + busy.wait_bound_ms,
            ms,
            bound_ms,
            busy,
            0.0,
            0.0,
        )

    def _priced(self, terms: _Terms, busy: Busy, announced: TextProfile, reading: Reading) -> Cost:
        track = terms.state.text
        profile = track.profile(announced)
        mean, high = completions(profile, reading.max_tokens)
        said = reading.alone() if terms.alone else reading.whole
        tokens = said.size_bytes * track.tokens_per_byte + TEMPLATE_TOKENS * len(said.messages)
        cached = 0.0
        if chain := said.chain():
            rate = track.tokens_per_byte
            cached = track.prefixes.expected_tokens(chain, tokens_per_byte=rate, prompt_tokens=tokens)
        own_ms, own_j = profile.cost(tokens - cached, mean)
        most_ms, most_j = profile.cost(tokens * TOKENS_MARGIN, high)
        pending = terms.load.pending
        together = track.factor(1 + pending) if pending else 1.0
        ms, bound_ms = track.takes_ms((HOP_MS + own_ms) * together, (HOP_MS + most_ms) * together)
        bound_ms = bound_ms if bound_ms > ms else ms
        # What nobody measures counts as 0 joules and is promised to nobody, as on the board.
        joules, bound_j = 0.0, np.inf
        if terms.known:
            typical, bound = self._board.energy_factors(terms.state.index)
            joules, bound_j = terms.load_j + own_j * typical, terms.load_j + most_j * bound
            bound_j = joules if joules > bound_j else bound_j
        latency_ms, latency_bound_ms = ms + busy.wait_ms, bound_ms + busy.wait_bound_ms
        return Cost(joules, bound_j, latency_ms, latency_bound_ms, ms, bound_ms, busy, tokens, cached)


def text_figures(board: ArmBoard, query: TextQuery) -> TextFigures:
    """See `Pricer.figures`, for one text alone."""
    return Pricer(board).figures(Reading(query))


def _price_turns(figures: TextFigures, board: ArmBoard, state: ArmState, reading: Reading) -> None:
    """The same of a text that the arm writes in turns with others."""
    track, n = state.text, state.index
    if state.arm.text is None:
        return
    if figures.turns is None:
        figures.turns = TurnRates.empty(len(board.states), everyone=reading.greedy)
    turns = figures.turns
    profile, prompt_tokens = track.profile(state.arm.text), figures.cost_n[n].prompt_tokens
    mean, high = completions(profile, reading.max_tokens)
    together = track.factor(1 + board.nodes[state.arm.node].pending)
    whole_ms = (HOP_MS + profile.cost_ms(prompt_tokens, mean)) * together
    slower = track.typically_ms(whole_ms) / whole_ms * together
    turns.tokens_bn[:, n] = mean, high
    turns.fixed_kn[1, n] = profile.cost_ms(prompt_tokens, 0.0) * slower + figures.cost_n[n].busy.wait_ms
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
    cost, profile = figures.cost_n[n], state.text.profile(state.arm.text)
    prefill_ms = HOP_MS + profile.cost_ms(cost.prompt_tokens * TOKENS_MARGIN, 1.0)
    return cost.busy.wait_bound_ms + state.text.at_most_ms(prefill_ms)


def next_token_ms(figures: TextFigures, n: int) -> float:
    """Milliseconds of every further token at the promise's quantile; 0 where nobody knows."""
    state = figures.states[n]
    if state.arm.text is None:
        return 0.0
    profile = state.text.profile(state.arm.text)
    tokens, _ = completions(profile, TYPICAL_COMPLETION_TOKENS)
    typical_ms = HOP_MS + profile.cost_ms(figures.cost_n[n].prompt_tokens, tokens)
    return profile.decode_ms_per_token * state.text.at_most_ms(typical_ms) / typical_ms


def affordable_tokens(board: ArmBoard, n: int, *, allowed_j: float, prompt_tokens: float) -> float:
    """Tokens that an arm may generate at most for so many joules at the promise's quantile; infinite without limit."""
    state = board.states[n]
    announced, known = state.arm.text, state.arm.energy.provenance is not Provenance.UNMEASURED
    if allowed_j == np.inf or announced is None or not known:
        return np.inf
    profile = state.text.profile(announced)
    if profile.decode_j_per_token <= 0.0:
        return np.inf
    _, bound = board.energy_factors(n)
    allowed_j -= missing_j(state.arm.residency)
    left_j = allowed_j / bound - profile.cost_j(prompt_tokens * TOKENS_MARGIN, 0.0)
    return max(1.0, float(np.floor(left_j / profile.decode_j_per_token)))
