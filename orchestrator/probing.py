"""The guard of the gate at work: some requests are answered by the other one, and feedback says how well.

Off unless configured, because every probe of the best single expert costs its joules. Whatever goes wrong in here is
logged and switches the guard off for the task; requests go on.
"""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from optimizer.online.guard import Draw, Guard, GuardTerms, InForce, reach_of_draws, worth
from orchestrator.durable import save_json
from orchestrator.longrun import GuardRecord
from orchestrator.routing.route import Decision

log = structlog.get_logger("guard")

# Feedback to older requests comes too late.
KEEP = 10_000
# Evidence is written down after so much feedback, at every change of who decides, and at the end.
KEEP_EVERY = 64


@dataclass(frozen=True)
class Probe:
    """What feedback to one request will be compared with."""

    task: str
    draw: Draw | None
    price_per_j: float
    expected_j: float


class Probing:
    """Guards by task.

    Args:
        probe_fraction: Share of requests on which the one that is not in force answers; 0 switches all of this off.
        tolerance: See `GuardTerms`.
        false_alarm_fraction: See `GuardTerms`.
        file: Where the guards' evidence is kept; None keeps it in memory only.
        chance: Draws numbers in [0, 1).
    """

    def __init__(
        self,
        *,
        probe_fraction: float = 0.0,
        tolerance: float = 0.005,
        false_alarm_fraction: float = 0.01,
        file: Path | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.on = probe_fraction > 0.0
        self._fraction = probe_fraction
        reach = reach_of_draws(probe_fraction) if self.on else 1.0
        self._terms = GuardTerms(tolerance, false_alarm_fraction, reach)
        self._chance = chance
        self._file = file
        self._guards = _load(file, self._terms) if self.on else {}
        self._probes: OrderedDict[str, Probe] = OrderedDict()
        self._broken: set[str] = set()
        self._since_kept = 0

    def decide(
        self, request_id: str, gate: Decision, *, task: str, expert: str | None, single: Callable[[str], Decision]
    ) -> Decision:
        """Who answers a request: the gate's decision, or the best single expert's.

        Args:
            request_id: Feedback will name it.
            gate: The gate's decision.
            task: The task class.
            expert: The best single expert; None where nobody knows, then the gate decides.
            single: Routes the request to one expert, by name.
        """
        if expert is None or gate.route is None or task in self._broken:
            return gate
        try:
            if gate.route.route.experts == (expert,):
                self._remember(request_id, Probe(task, None, 0.0, 0.0))
                return gate
            return self._draw(request_id, gate, task=task, alone=single(expert))
        except Exception as error:  # the rim: requests keep flowing without their guard
            self._broken.add(task)
            log.error("guard.broken", task=task, why=f"{type(error).__name__}: {error}")
            return gate

    def _draw(self, request_id: str, gate: Decision, *, task: str, alone: Decision) -> Decision:
        if not (gate.within and alone.within):
            return gate
        guard = self._guards.setdefault(task, Guard(self._terms))
        probing_single = guard.in_force is InForce.GATE
        single_fraction = self._fraction if probing_single else 1.0 - self._fraction
        took_gate = self._chance() >= single_fraction
        taken, price = gate if took_gate else alone, gate.floor_per_j
        draw = Draw(took_gate, single_fraction, _expected_worth(gate, price), _expected_worth(alone, price))
        self._remember(request_id, Probe(task, draw, price, _figure(taken.offer.energy_r, taken)))
        return taken

    def _remember(self, request_id: str, probe: Probe) -> None:
        self._probes[request_id] = probe
        if len(self._probes) > KEEP:
            self._probes.popitem(last=False)

    def feedback(self, request_id: str, score: float) -> bool:
        """How good an answer was, 0 to 1; true where it was part of a comparison and is the first feedback to it."""
        probe = self._probes.pop(request_id, None)
        if probe is None or probe.task in self._broken:
            return False
        guard = self._guards.setdefault(probe.task, Guard(self._terms))
        actual = _clipped(worth(quality=score, energy_j=probe.expected_j, price_per_j=probe.price_per_j))
        difference = 0.0 if probe.draw is None else probe.draw.difference(actual)
        try:
            switched = guard.observe(difference)
        except Exception as error:  # the rim: feedback that breaks the guard is not the caller's business
            self._broken.add(probe.task)
            log.error("guard.broken", task=probe.task, why=f"{type(error).__name__}: {error}")
            return False
        self._since_kept += 1
        if switched or self._since_kept >= KEEP_EVERY:
            self._since_kept = 0
            self.keep()
        if switched:
            log.warning("guard.switched", task=probe.task, in_force=guard.in_force.value, stays=guard.stays)
        return True

    def keep(self) -> None:
        """Write the evidence down: what is promised of false alarms is promised over restarts too."""
        if self._file is None or not self._guards:
            return
        try:
            save_json(self._file, {task: guard.numbers() for task, guard in self._guards.items()})
        except OSError as error:
            log.warning("guard.not_kept", why=str(error))

    def record(self, task: str) -> GuardRecord | None:
        """How a task's guard stands; None where there is none."""
        guard = self._guards.get(task)
        if guard is None:
            return None
        return GuardRecord(
            guard.in_force.value, guard.evidence_fraction, guard.mean_difference, guard.observations, guard.stays
        )


def _figure(figure_r: NDArray[np.float64], decision: Decision) -> float:
    return math.nan if decision.index is None else float(figure_r[decision.index])


def _expected_worth(decision: Decision, price_per_j: float) -> float:
    offer = decision.offer
    quality, energy_j = _figure(offer.quality_r, decision), _figure(offer.energy_r, decision)
    return _clipped(worth(quality=quality, energy_j=energy_j, price_per_j=price_per_j))


def _clipped(value: float) -> float:
    """Within [0, 1], so that differences stay within their reach: joules beyond a whole answer's worth count as one."""
    return min(1.0, max(0.0, value))


def _load(file: Path | None, terms: GuardTerms) -> dict[str, Guard]:
    """Guards of an earlier life; those of other terms, and a file that cannot be read, begin anew and are told of."""
    if file is None or not file.exists():
        return {}
    try:
        document = json.loads(file.read_text())
        return {str(task): Guard.restored(terms, numbers) for task, numbers in document.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("guard.not_read", file=str(file), why=str(error))
        return {}
