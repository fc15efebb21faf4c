"""What texts cost on this node: a line through runs with short and long questions and answers.

Cost is overhead + prompt tokens x prefill + completion tokens x decode, fitted by least squares with no negative part.
Shapes: r runs; columns 1, prompt tokens, completion tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product

import numpy as np
from numpy.typing import NDArray

from nodes.arms import ArmProfile, ArmSpec, TextCost
from nodes.energy.contract import EnergyReading, Meter, Provenance, Span
from nodes.engines.contract import Engine, TextEnd, TextJob
from nodes.errors import EngineError

# (question, tokens of the answer): the corners between which the line lies.
CORNERS = (("What is 3 plus 4?", 2), ("What is " + "3 plus 4 plus " * 8 + "1?", 2), ("What is 3 plus 4?", 16))
TYPICAL_PROMPT_TOKENS = 16
MIN_ROUNDS = 2
Floats = NDArray[np.float64]
# Of prompt and completion.
Tokens = tuple[int, int]
# Overhead, per prompt token, per completion token.
Line = tuple[float, float, float]


@dataclass(frozen=True)
class TextRun:
    """One text that was written to be measured."""

    prompt_tokens: int
    completion_tokens: int
    ms: float
    span: Span
    reading: EnergyReading

    @property
    def tokens(self) -> Tokens:
        """Of prompt and completion."""
        return self.prompt_tokens, self.completion_tokens


async def measure_text(engine: Engine, meter: Meter, arm: ArmSpec, *, seconds: float) -> list[TextRun]:
    """Texts at every corner, in turn, for so long; the first round only warms up.

    Raises:
        EngineError: if the arm cannot be run.
    """
    until_s = time.perf_counter() + seconds
    for question, tokens in CORNERS:
        await _write(engine, meter, arm, question, tokens)
    runs: list[TextRun] = []
    for question, tokens in cycle(CORNERS):
        if len(runs) >= MIN_ROUNDS * len(CORNERS) and time.perf_counter() >= until_s:
            return runs
        runs.append(await _write(engine, meter, arm, question, tokens))
    return runs


async def _write(engine: Engine, meter: Meter, arm: ArmSpec, question: str, tokens: int) -> TextRun:
    job = TextJob(arm.key, (("user", question),), max_tokens=tokens, min_tokens=tokens, temperature=0.0)
    span, started_s = meter.begin(arm.key), time.perf_counter()
    end: TextEnd | None = None
    async for item in engine.generate(job):
        end = item if isinstance(item, TextEnd) else end
    ms = (time.perf_counter() - started_s) * 1e3
    if end is None:
        raise EngineError(f"{arm.key} ended its text without an end")
    reading = meter.end(span, compute_ms=end.compute_ms, macs=end.macs)
    return TextRun(end.prompt_tokens, end.completion_tokens, ms, span, reading)


def text_profile(arm: ArmSpec, meter: Meter, runs: Sequence[TextRun], final: dict[Span, EnergyReading]) -> ArmProfile:
    """The fitted cost, and what a typical answer takes by it."""
    readings = [final.get(run.span, run.reading) for run in runs]
    ms_line = fit_line(*_middles(runs, [run.ms for run in runs]))
    joules_line = _modelled_line(arm, meter) or _measured_line(runs, readings)
    cost = TextCost(*ms_line, *(joules_line or (0.0, 0.0, 0.0)))
    mean, p95 = (arm.text.completion_tokens, arm.text.completion_p95_tokens) if arm.text else (8.0, 16.0)
    typical_ms = [_at(ms_line, TYPICAL_PROMPT_TOKENS, tokens) for tokens in (mean, max(mean, p95))]
    energy_j = None if joules_line is None else _at(joules_line, TYPICAL_PROMPT_TOKENS, mean)
    provenance = Provenance.UNMEASURED if energy_j is None else readings[0].provenance
    energy = EnergyReading(energy_j, 0.0, provenance, readings[0].method)
    return ArmProfile(typical_ms[0], typical_ms[1], len(runs), Provenance.MEASURED, energy, cost)


def fit_line(tokens: Sequence[Tokens], value_r: Sequence[float]) -> Line:
    """Overhead, per prompt token and per completion token: the best that has no negative part.

    Args:
        tokens: Of prompt and completion, by run.
        value_r: What each run took.
    """
    columns_r3 = np.array([[1.0, prompt, completion] for prompt, completion in tokens])
    best, least = (0.0, 0.0, 0.0), np.inf
    # With three columns, trying every set of them is the whole of non-negative least squares.
    for used in product((True, False), repeat=3):
        parts, rest = _least_squares(columns_r3, np.asarray(value_r, np.float64), np.array(used))
        if min(parts) >= 0.0 and rest < least:
            best, least = parts, rest
    return best


def _least_squares(columns_r3: Floats, value_r: Floats, used: NDArray[np.bool_]) -> tuple[Line, float]:
    parts = np.zeros(3)
    if used.any():
        parts[used] = np.linalg.lstsq(columns_r3[:, used], value_r, rcond=None)[0]
    line = float(parts[0]), float(parts[1]), float(parts[2])
    return line, float(np.square(columns_r3 @ parts - value_r).sum())


def _modelled_line(arm: ArmSpec, meter: Meter) -> Line | None:
    nothing, token = meter.estimate(0), meter.estimate(arm.macs)
    if nothing is None or token is None or nothing.energy_j is None or token.energy_j is None:
        return None
    per_token_j = token.energy_j - nothing.energy_j
    return nothing.energy_j, per_token_j, per_token_j


def _measured_line(runs: Sequence[TextRun], readings: Sequence[EnergyReading]) -> Line | None:
    known = [
        (run, reading.energy_j) for run, reading in zip(runs, readings, strict=True) if reading.energy_j is not None
    ]
    return fit_line([run.tokens for run, _ in known], [joules for _, joules in known]) if known else None


def _middles(runs: Sequence[TextRun], value_r: Sequence[float]) -> tuple[list[Tokens], list[float]]:
    """The median of each corner: what else the machine did meanwhile must not bend the line."""
    corners = sorted({run.tokens for run in runs})
    values = [[value for run, value in zip(runs, value_r, strict=True) if run.tokens == corner] for corner in corners]
    return corners, [float(np.median(corner)) for corner in values]


def _at(line: Line, prompt_tokens: float, completion_tokens: float) -> float:
    overhead, prefill, decode = line
    return overhead + prefill * prompt_tokens + decode * completion_tokens
