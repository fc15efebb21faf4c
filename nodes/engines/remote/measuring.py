"""What a text costs on a server: short and long prompts with short and long answers, fitted.

Shape letters: n generations, k = 3 (once, per prompt token, per completion token).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from nodes.arms import ArmProfile, Inventory, TextCost
from nodes.energy.contract import EnergyReading, Meter, Provenance
from nodes.engines.contract import Engine, TextEnd, TextJob
from nodes.errors import NodeError
from nodes.profiling import mean_reading

Floats = NDArray[np.float64]

QUESTION = "Write the numbers from one to fifty in words."
FILLER = "The quick brown fox jumps over the lazy dog while the band plays on and nobody is counting. " * 12
# (prompt, tokens of the answer); the first one warms the model up and is not counted.
TRIALS = ((QUESTION, 4), (QUESTION, 2), (QUESTION, 24), (FILLER + QUESTION, 2), (FILLER + QUESTION, 24), (QUESTION, 24))
TRIAL_S = 120.0
UNMETERED = EnergyReading(None, 0.0, Provenance.UNMEASURED, "none")

log = structlog.get_logger("nodes.profiling")


@dataclass(frozen=True)
class Trial:
    """One generation that was measured."""

    end: TextEnd
    reading: EnergyReading


async def profile_texts(engine: Engine, meter: Meter, inventory: Inventory) -> dict[str, ArmProfile]:
    """Profile of every arm by its key; one that cannot be asked now has none, and is learnt by the gateway."""
    profiles = {}
    for arm in inventory.arms:
        try:
            async with asyncio.timeout(TRIAL_S):
                trials = [await _try(engine, meter, arm.key, prompt, tokens) for prompt, tokens in TRIALS]
        except (NodeError, TimeoutError) as error:
            log.warning("arm not measured", arm=arm.key, why=str(error) or "it took too long")
            continue
        profiles[arm.key] = fit(trials[1:])
    return profiles


async def _try(engine: Engine, meter: Meter, arm: str, prompt: str, tokens: int) -> Trial:
    job = TextJob(arm, (("user", prompt),), max_tokens=tokens, temperature=0.0)
    span = meter.begin(arm)
    end = None
    async with aclosing(engine.generate(job)) as pieces:
        async for piece in pieces:
            if isinstance(piece, TextEnd):
                end = piece
    if end is None:
        raise NodeError("the server's answer had no end")
    return Trial(end, meter.end(span, compute_ms=end.compute_ms, macs=0))


def fit(trials: Sequence[Trial]) -> ArmProfile:
    """The costs that explain the trials best, none of them negative."""
    design_nk = np.array([[1.0, trial.end.prompt_tokens, trial.end.completion_tokens] for trial in trials])
    ms_n = np.array([trial.end.compute_ms for trial in trials])
    joules = [trial.reading.energy_j for trial in trials]
    cost_ms, cost_j = _solve(design_nk, ms_n), np.zeros(3)
    if all(value is not None for value in joules):
        cost_j = _solve(design_nk, np.array(joules, dtype=np.float64))
    energy = mean_reading([trial.reading for trial in trials])
    text = TextCost(*cost_ms.tolist(), *cost_j.tolist())
    p50_ms, p95_ms = np.quantile(ms_n, [0.5, 0.95])
    return ArmProfile(float(p50_ms), float(p95_ms), len(trials), Provenance.MEASURED, energy, text)


def _solve(design_nk: Floats, value_n: Floats) -> Floats:
    """Least squares with no negative cost: what would be negative is left out, the rest is fitted again."""
    kept = [0, 1, 2]
    while kept:
        solved, *_ = np.linalg.lstsq(design_nk[:, kept], value_n, rcond=None)
        if (solved >= 0.0).all():
            break
        kept.pop(int(np.argmin(solved)))
    cost_k = np.zeros(3)
    if kept:
        cost_k[kept] = solved
    return cost_k
