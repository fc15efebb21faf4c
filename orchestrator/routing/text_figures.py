"""Figures that routes are priced with: arrays of all arms, and what one text costs on those of its task.

Shape letters: n arms, in the order of the board, k figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.changes import Changes
from orchestrator.routing.turns import TurnRates

Floats = NDArray[np.float64]

# Of one text, whose figures stay as they are.
UNCHANGED = Changes()


class ByArm(Protocol):
    """A figure by the index of an arm: an array of the board, or what is known of one text."""

    def __getitem__(self, n: int, /) -> Any: ...


class Figures(Protocol):
    """Joules and milliseconds of arms, of the board or of one text."""

    @property
    def energy_j_n(self) -> ByArm: ...
    @property
    def service_ms_n(self) -> ByArm: ...
    @property
    def service_bound_ms_n(self) -> ByArm: ...


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


class TextFigures:
    """What one text will cost on every arm of its task, by index; arms without a text profile keep the board's figures.

    Args:
        states: The arms of the board, also those that come later.
        loaded: Whether any arm has a wait.

    `prompt_tokens_n` are those of the prompt as each arm counts, typically; `cached_tokens_n`, of these, what each arm
    has kept from before, typically: in its joules and milliseconds they do not count. In no bound: a node may have
    forgotten, and a promise holds all the same. `turns` is what the text costs where several arms write it; None where
    no arm writes in turns.
    """

    __slots__ = (
        "busy_n",
        "cached_tokens_n",
        "energy_bound_j_n",
        "energy_j_n",
        "loaded",
        "prompt_tokens_n",
        "service_bound_ms_n",
        "service_ms_n",
        "states",
        "turns",
    )

    def __init__(self, states: Sequence[ArmState], *, loaded: bool) -> None:
        self.states = states
        self.loaded = loaded
        self.energy_j_n: dict[int, float] = {}
        self.energy_bound_j_n: dict[int, float] = {}
        self.service_ms_n: dict[int, float] = {}
        self.service_bound_ms_n: dict[int, float] = {}
        self.busy_n: dict[int, Busy] = {}
        self.prompt_tokens_n: dict[int, float] = {}
        self.cached_tokens_n: dict[int, float] = {}
        self.turns: TurnRates | None = None

    def cover(self, arms: Iterable[int]) -> None:
        """Those of these arms that came later are not available to this text."""
        for n in arms:
            if n not in self.busy_n:
                self.busy_n[n] = LATER
                for figure_n in (*self._costs(), self.prompt_tokens_n):
                    figure_n[n] = 0.0

    def _costs(self) -> tuple[dict[int, float], ...]:
        return (
            self.energy_j_n,
            self.energy_bound_j_n,
            self.service_ms_n,
            self.service_bound_ms_n,
            self.cached_tokens_n,
        )

    def columns(self) -> TextColumns:
        """The same as arrays over all arms of the board; 0 for arms of other tasks and those that came later."""
        arms, known = len(self.states), list(self.busy_n)
        costs = [list(figure_n.values()) for figure_n in self._costs()]
        busy = zip(*self.busy_n.values(), strict=True) if known else [()] * len(LATER)
        figures_kn = np.array([*costs, *busy], dtype=np.float64)
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
