"""What a text costs on a server: short and long prompts with short and long answers.

A server cannot be told to go on, so that answers may be shorter than what is asked for; their real tokens count.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import structlog

from nodes.arms import ArmProfile, ArmSpec, Inventory
from nodes.energy.contract import Meter
from nodes.engines.contract import Engine, TextEnd, TextJob
from nodes.errors import EngineError, NodeError
from nodes.profiling import Runs, settled
from nodes.text_profiling import TextRun, text_profile

QUESTION = "Write the numbers from one to fifty in words."
FILLER = "The quick brown fox jumps over the lazy dog while the band plays on and nobody is counting. " * 12
# (prompt, tokens of the answer); the first one warms the model up and is not counted.
TRIALS = ((QUESTION, 4), (QUESTION, 2), (QUESTION, 24), (FILLER + QUESTION, 2), (FILLER + QUESTION, 24), (QUESTION, 24))
TRIAL_S = 120.0

log = structlog.get_logger("nodes.profiling")


async def profile_texts(engine: Engine, meter: Meter, inventory: Inventory) -> dict[str, ArmProfile]:
    """Profile of every arm by its key; one that cannot be asked now has none, and is learnt by the gateway."""
    profiles = {}
    for arm in inventory.arms:
        try:
            async with asyncio.timeout(TRIAL_S):
                trials = [(fitting(prompt, arm), tokens) for prompt, tokens in TRIALS]
                runs = [await _try(engine, meter, arm, prompt, tokens) for prompt, tokens in trials][1:]
        except (NodeError, TimeoutError) as error:
            log.warning("arm not measured", arm=arm.key, why=str(error) or "it took too long")
            continue
        final = await settled(meter, [Runs([run.ms for run in runs], {run.span: run.reading for run in runs})])
        profiles[arm.key] = text_profile(arm, meter, runs, final)
    return profiles


def fitting(prompt: str, arm: ArmSpec) -> str:
    """The end of a prompt, so long that it surely fits with its answer: a token may be a single byte."""
    context_tokens = arm.text.context_tokens if arm.text else 0
    return prompt[-(context_tokens // 2) :] if context_tokens else prompt


async def _try(engine: Engine, meter: Meter, arm: ArmSpec, prompt: str, tokens: int) -> TextRun:
    embed = arm.text is not None and "embeddings" in arm.text.capabilities and "chat" not in arm.text.capabilities
    job = TextJob(arm.key, (("user", prompt),), max_tokens=tokens, temperature=0.0, embed=embed)
    span, started_s = meter.begin(arm.key), time.perf_counter()
    end = None
    async with aclosing(engine.generate(job)) as pieces:
        async for piece in pieces:
            end = piece if isinstance(piece, TextEnd) else end
    if end is None:
        raise EngineError(f"{arm.key} ended its text without an end")
    ms = (time.perf_counter() - started_s) * 1e3
    reading = meter.end(span, compute_ms=end.compute_ms, macs=end.macs)
    return TextRun(end.prompt_tokens, end.completion_tokens, ms, span, reading)
