"""Figures that routes are priced with: arrays of all arms, and what one text costs on those of its task.

Shape letters: n arms, in the order of the board, k figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.promise import Promise
from optimizer.frozen import frozen
from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.changes import Changes
from orchestrator.routing.turns import TurnRates

Floats = NDArray[np.float64]

# Of one text, whose figures stay as they are.
UNCHANGED = Changes()


class Columns(Protocol):
    """Joules, milliseconds and availability of every arm as arrays, and what changed of them lately."""

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

    @property
    def energy_changes(self) -> Changes: ...
    @property
    def latency_changes(self) -> Changes: ...
    @property
    def wait_changes(self) -> Changes: ...
    @property
    def available_changes(self) -> Changes: ...

    @property
    def turns(self) -> TurnRates | None:
        """What texts cost that several arms write; None where no text is meant."""
        ...


class Busy(NamedTuple):
    """How an arm stands: whether its node is there and for how long that takes nothing new, and what it must wait for;
    fields as on the board."""

    available: bool
    closed_ms: float
    wait_ms: float = 0.0
    wait_bound_ms: float = 0.0
    load_ms: float = 0.0


FREE, LATER = Busy(True, 0.0), Busy(False, 0.0)


@frozen
class Cost(Promise):
    """What one text will cost on one arm; milliseconds of its route hold the wait.

    Args:
        service_ms: Without the wait, typically.
        service_bound_ms: The same at the promise's quantile.
        busy: How the arm stands.
        prompt_tokens: Of the prompt as the arm counts, typically.
        cached_tokens: Of these, what the arm has kept from before, typically: in its joules and milliseconds they do
            not count. In no bound: a node may have forgotten, and a promise holds all the same.
    """

    service_ms: float
    service_bound_ms: float
    busy: Busy
    prompt_tokens: float
    cached_tokens: float


# On an arm that came later than the text.
UNKNOWN = Cost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, LATER, 0.0, 0.0)


class TextFigures:
    """What one text will cost on every arm of its task, by index; arms without a text profile keep the board's figures.

    Args:
        states: The arms of the board, also those that come later.
        loaded: Whether any arm has a wait.

    `turns` is what the text costs where several arms write it; None where no arm writes in turns.
    """

    __slots__ = ("cost_n", "loaded", "states", "turns")

    def __init__(self, states: Sequence[ArmState], *, loaded: bool) -> None:
        self.states = states
        self.loaded = loaded
        self.cost_n: dict[int, Cost] = {}
        self.turns: TurnRates | None = None

    def columns(self) -> TextColumns:
        """The same as arrays over all arms of the board; 0 for arms of other tasks and those that came later."""
        arms, known, costs = len(self.states), list(self.cost_n), self.cost_n.values()
        busy = zip(*[cost.busy for cost in costs], strict=True) if known else [()] * len(LATER)
        figures_kn = np.array(
            [
                [cost.energy_j for cost in costs],
                [cost.energy_bound_j for cost in costs],
                [cost.service_ms for cost in costs],
                [cost.service_bound_ms for cost in costs],
                [cost.cached_tokens for cost in costs],
                *busy,
            ],
            dtype=np.float64,
        )
        if known != list(range(arms)):
            known_kn, figures_kn = figures_kn, np.zeros((len(figures_kn), arms))
            figures_kn[:, known] = known_kn
        turns = self.turns
        if turns is not None and (more := arms - turns.fixed_kn.shape[1]) > 0:
            turns = turns.grown(more)
        return TextColumns(figures_kn, turns, loaded=self.loaded)


class TextColumns:
    """What one text will cost, as arrays.

    Args:
        figures_kn: One row for each column, in the order of the assignment below.
        loaded: Whether any arm has a wait.
        turns: What the text costs where several arms write it.
    """

    energy_changes = latency_changes = wait_changes = available_changes = UNCHANGED

    def __init__(self, figures_kn: Floats, turns: TurnRates | None, *, loaded: bool) -> None:
        (
            self.energy_j_n,
            self.energy_bound_j_n,
            self.service_ms_n,
            self.service_bound_ms_n,
            self.cached_tokens_n,
            available_n,
            self.closed_ms_n,
            self.wait_ms_n,
            self.wait_bound_ms_n,
            self.load_ms_n,
        ) = figures_kn
        self.available_n: NDArray[np.bool_] = available_n != 0.0
        self.loaded = loaded
        self.turns = turns
