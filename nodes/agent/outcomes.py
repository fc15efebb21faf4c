"""What a gateway is told when work gives no answer. Texts of foreign exceptions stay on this machine. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nodes import errors
from nodes.agent import messages as m
from nodes.agent.checks import Unfit
from nodes.energy.contract import EnergyReading


@dataclass(frozen=True)
class _Told:
    reason: m.Reason
    text: str
    final: bool = False


_TROUBLE: tuple[tuple[type[errors.NodeError], _Told], ...] = (
    (errors.EngineDied, _Told(m.Reason.ENGINE_DIED, "The engine ended before it answered")),
    (errors.EngineBusy, _Told(m.Reason.NODE_BUSY, "The node's queue is full")),
    (errors.ArmQuarantined, _Told(m.Reason.ARM_UNKNOWN, "The node no longer offers this arm")),
    (errors.DeadlinePassed, _Told(m.Reason.DEADLINE, "The deadline passed before the work could start", True)),
    (errors.InputInvalid, _Told(m.Reason.INPUT_INVALID, "The engine does not accept this input", True)),
)
_OTHER_TROUBLE = _Told(m.Reason.ENGINE_ERROR, "The engine failed")


def failed(work_id: int, error: Exception, energy: EnergyReading | None) -> m.WorkFailed:
    """The outcome for an error, with the joules that were spent all the same."""
    told = next((told for kind, told in _TROUBLE if isinstance(error, kind)), _OTHER_TROUBLE)
    # What our own checks found is said in our own words, and helps the caller.
    text = error.message if isinstance(error, Unfit) else told.text
    return m.WorkFailed(work_id, told.reason, text, told.final, energy)


def cancelled(work_id: int, energy: EnergyReading | None) -> m.WorkFailed:
    """The outcome of work that nobody waits for any more."""
    return m.WorkFailed(work_id, m.Reason.CANCELLED, "The work was cancelled", True, energy)


def refused(work_id: int, reason: m.Reason) -> m.WorkFailed:
    """The outcome of work that was never begun."""
    texts = {
        m.Reason.DRAINING: "The node is draining",
        m.Reason.ARM_UNKNOWN: "This node has no such arm",
        m.Reason.DEADLINE: "The deadline has passed",
    }
    return m.WorkFailed(work_id, reason, texts[reason], final=reason is m.Reason.DEADLINE)


def plus(reading: EnergyReading, load: EnergyReading | None) -> EnergyReading:
    """Joules of work and of the load before it; an unknown load adds nothing."""
    if load is None or load.energy_j is None or reading.energy_j is None:
        return reading
    uncertainty_j = math.hypot(reading.uncertainty_j, load.uncertainty_j)
    stages = (*reading.stages_j, ("load", load.energy_j)) if reading.stages_j else ()
    return replace(reading, energy_j=reading.energy_j + load.energy_j, uncertainty_j=uncertainty_j, stages_j=stages)
