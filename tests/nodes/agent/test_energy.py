"""What a node says about its joules: source, state of the device, preliminary and final figures, stages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nodes.agent import messages as m
from nodes.agent.desk import Desk
from nodes.agent.wire import encode
from nodes.arms import ArmSpec, Inventory, TaskSpec
from nodes.energy.contract import EnergyReading, Provenance, Settlement, ShareRule, Signals, Span, Throttle
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from tests.nodes.agent.engines import FakeEngine

SPEAKER = ArmSpec("speaker", "fake", "chat", "fake", 0, 10, 0.5, 10)
FINAL = EnergyReading(
    2.5, 0.1, Provenance.MEASURED, "late", 0.5, ShareRule.WEIGHTS, (("prefill", 1.0), ("decode", 1.5))
)


class LateMeter(UnmeasuredMeter):
    """Every first figure is preliminary."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[Span] = []
        self.stages: list[tuple[str, str]] = []

    def begin(self, arm: str = "", stage: str = "") -> Span:
        self.stages.append((arm, stage))
        return super().begin(arm, stage)

    def enter(self, span: Span, stage: str) -> None:
        self.stages.append((span.arm, stage))
        super().enter(span, stage)

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:
        super().end(span, compute_ms=compute_ms, macs=macs)
        self.ended.append(span)
        return EnergyReading(2.0, 1.0, Provenance.MEASURED, "late", 0.4, ShareRule.PREDICTED, final=False)

    def settle(self) -> Sequence[Settlement]:
        return [Settlement(span, FINAL) for span in self.ended]


async def test_text_has_stages_and_its_final_joules_follow() -> None:
    engine, meter, said = FakeEngine(), LateMeter(), list[m.Event]()
    engine.gate.set()
    heard = asyncio.Event()

    async def send(event: m.Event) -> None:
        said.append(event)
        if isinstance(event, m.WorkDone):
            heard.set()

    inventory = Inventory((TaskSpec("chat", text=True),), (SPEAKER,), {})
    desk = Desk(engine, meter, inventory=inventory, send=send)
    request = m.TextRequest((("user", "hello"),), max_tokens=3)
    desk.take(m.Work(7, "r", "speaker", "fake", 5000.0, 0.0, request))
    async with asyncio.timeout(5.0):
        await heard.wait()
    assert meter.stages == [("speaker:fake", "prefill"), ("speaker:fake", "decode")]
    await desk.settled(meter.settle())
    assert said[-1] == m.EnergySettled(((7, FINAL),))
    await desk.settled(meter.settle())
    assert sum(isinstance(event, m.EnergySettled) for event in said) == 1


def test_every_part_of_a_figure_travels() -> None:
    (event,) = encode(1, 1, [m.EnergySettled(((7, FINAL),))]).events
    (work,) = event.settled.works
    assert (work.work_id, work.energy.energy_j, work.energy.idle_j, work.energy.share) == (7, 2.5, 0.5, "weights")
    assert [(stage.stage, stage.energy_j) for stage in work.energy.stages] == [("prefill", 1.0), ("decode", 1.5)]
    assert not work.energy.preliminary


def test_unknown_idle_joules_stay_unset() -> None:
    unknown = EnergyReading(1.0, 0.0, Provenance.MODELLED, "profile:x")
    (event,) = encode(1, 1, [m.EnergySettled(((7, unknown),))]).events
    assert not event.settled.works[0].energy.HasField("idle_j")


@pytest.mark.parametrize("signals", [Signals(), Signals(81.5, (Throttle.POWER_CAP, Throttle.HARDWARE_THERMAL))])
def test_heartbeats_carry_the_devices_state(signals: Signals) -> None:
    (event,) = encode(1, 1, [m.Heartbeat(1, 2, 3, signals, 4.5)]).events
    beat = event.heartbeat
    assert beat.HasField("temperature_c") == (signals.temperature_c is not None)
    assert tuple(beat.throttles) == tuple(throttle.value for throttle in signals.throttles)
    assert beat.idle_energy_j == 4.5
