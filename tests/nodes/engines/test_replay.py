"""The replaying engine and its counter, by which the simulator is judged: they keep the recording's time and joules."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from nodes.energy.contract import EnergyReading, Span
from nodes.energy.meters.counter import CounterMeter
from nodes.engines.contract import Job
from tests.fakes.replay_agent import EXPERT, SCALE_MS, VARIANT, ReplayCounter, ReplayEngine, inventory, profile_of

ROWS = [(20.0, 0.5), (30.0, 0.2), (10.0, 0.9), (25.0, 0.1)]
IDLE_W = 5.0


async def run_all(count: int) -> tuple[list[np.ndarray[tuple[int, int], np.dtype[np.float32]]], list[EnergyReading]]:
    """So many jobs at once on one slot, metered as an agent does."""
    counter = ReplayCounter(IDLE_W)
    meter = CounterMeter(counter, idle_w=IDLE_W)
    engine = ReplayEngine(ROWS, counter, queue_limit=count)
    await engine.load(inventory().arms)

    async def one() -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], EnergyReading]:
        spans: list[Span] = []
        result = await engine.infer(Job(f"{EXPERT}:{VARIANT}", {}, None, lambda: spans.append(meter.begin(EXPERT))))
        return result.outputs["answer"], meter.end(spans[0], compute_ms=result.compute_ms, macs=0)

    both = await asyncio.gather(*(one() for _ in range(count)))
    return [answer for answer, _ in both], [reading for _, reading in both]


async def test_every_joule_of_the_recording_is_settled_and_none_of_idle_power() -> None:
    _, readings = await run_all(len(ROWS))
    settled = [reading.energy_j or 0.0 for reading in readings]
    assert sum(settled) == pytest.approx(sum(joules for _, joules in ROWS), rel=0.02)


async def test_runs_keep_the_pace_of_the_recording_however_late_they_are_woken() -> None:
    answers, _ = await run_all(len(ROWS))
    told = np.concatenate(answers) * SCALE_MS
    assert told[:, 0] == pytest.approx([20.0, 30.0, 10.0, 25.0], abs=0.1)
    assert np.diff(told[:, 1]) == pytest.approx([20.0, 30.0, 10.0], abs=2.0)


def test_what_is_announced_comes_from_the_profile() -> None:
    profile = profile_of(ROWS)
    assert profile.p50_ms == 22.5
    assert profile.energy.energy_j == pytest.approx(0.425)
