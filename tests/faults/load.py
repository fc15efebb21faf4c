"""Open-loop load: requests leave when they are due, whatever became of those before, and each leaves a record.

Every request names its expert, so that it is known beforehand which node serves it and which one could take over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nodes.zoo.catalog import load_catalog
from orchestrator.client import Answer, AsyncClient, Budget
from orchestrator.errors import EdgewiseError
from tests.faults.history import Entry

DEADLINE_S = (2.0, 3.0)
# What an expert answers on any node is the same to this many digits.
TOLERANCE = 1e-4


@cache
def pictures() -> NDArray[np.float32]:
    """Inputs of all requests, shape (n, 8, 8)."""
    return np.ascontiguousarray(load_catalog().held_out.inputs, dtype=np.float32)


@cache
def expected(expert: str) -> NDArray[np.float32]:
    """What an expert answers to each picture, computed here, shape (n, 10)."""
    catalog = load_catalog()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(catalog.model_path(catalog.expert(expert)))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (answers_nc,) = session.run(None, {session.get_inputs()[0].name: pictures()})
    return np.asarray(answers_nc, dtype=np.float32)


@dataclass
class Load:
    """Issues requests and collects what became of them.

    Args:
        client: Of the gateway under test.
        rng: Arrivals, deadlines and inputs; a fixed seed gives the same requests.
        label: Beginning of the request ids.
    """

    client: AsyncClient
    rng: np.random.Generator
    label: str
    entries: list[Entry] = field(default_factory=list)
    phase: str = ""
    _open: set[asyncio.Task[None]] = field(default_factory=set)
    _issued: int = 0

    async def steady(self, experts: Sequence[str], *, rate_hz: float, seconds: float) -> None:
        """Poisson arrivals, the experts in turn at random."""
        now_s = time.monotonic()
        end_s, due_s = now_s + seconds, now_s
        while (due_s := due_s + float(self.rng.exponential(1.0 / rate_hz))) < end_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self._issue(str(self.rng.choice(list(experts))), due_s, steady=True)
        await asyncio.sleep(max(0.0, end_s - time.monotonic()))

    def burst(self, expert: str, count: int) -> None:
        """Many requests for one expert at once."""
        for _ in range(count):
            self._issue(expert, time.monotonic(), steady=False)

    async def settled(self) -> list[Entry]:
        """Wait for what is under way; everything that was issued."""
        while self._open:
            await asyncio.wait(self._open)
        return self.entries

    def _issue(self, expert: str, due_s: float, *, steady: bool) -> None:
        self._issued += 1
        deadline_s = float(self.rng.uniform(*DEADLINE_S))
        number = int(self.rng.integers(len(pictures())))
        blank = Entry(f"{self.label}-{self._issued}", self.phase, steady, expert, deadline_s, due_s, 0.0, "unknown")
        task = asyncio.ensure_future(self._ask(blank, number))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _ask(self, blank: Entry, number: int) -> None:
        fields: Mapping[str, object]
        try:
            answer = await self.client.infer(
                {"image": pictures()[number : number + 1]},
                expert=blank.expert,
                budget=Budget(max_latency_ms=blank.deadline_s * 1e3),
                request_id=blank.request_id,
                timeout_s=blank.deadline_s,
            )
            fields = _answered(answer, blank.expert, number)
        except EdgewiseError as error:
            fields = {"outcome": "unknown" if error.reason == "UNREACHABLE" else "fail", "reason": error.reason}
        self.entries.append(Entry(**{**vars(blank), "end_s": time.monotonic(), **fields}))


def _answered(answer: Answer, expert: str, number: int) -> dict[str, object]:
    nodes = [attempt.arm.rpartition("@")[2] for attempt in answer.routing.attempts if attempt.outcome == "answered"]
    (output,) = answer.outputs.values()
    right = bool(np.allclose(np.asarray(output).reshape(-1), expected(expert)[number], atol=TOLERANCE))
    return {"outcome": "ok", "answered_by": tuple(nodes), "right": right}
