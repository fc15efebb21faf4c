"""How owners are answered: by what a user's own expert is folded into, by the graph that all share, or by GE.

One event loop. An expert is in the engine or in the rows from `place` until `remove`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from nodes.engines.contract import Job, JobResult
from nodes.errors import EngineError, NodeError
from nodes.personal import compiled, graph, shared
from nodes.personal.choosing import Host
from nodes.personal.delta import Delta, fold
from nodes.personal.forms import Form, measured
from nodes.personal.gate import Gate
from nodes.personal.gathering import Gathering
from nodes.personal.hand import Hand
from nodes.personal.network import Floats, Network, Weights

log = structlog.get_logger("nodes.personal")


@dataclass(frozen=True, eq=False)
class Answer:
    """What an owner is told, and by whom."""

    probabilities: NDArray[np.float32]
    by_local: bool
    result: JobResult


class Serving:
    """The engine as owners see it. `open` before anything else.

    Args:
        engine: Runs models.
        network: The global expert's layers.
        weights: And its weights.
        expert: Its name.
    """

    def __init__(self, engine: Host, network: Network, weights: Weights, *, expert: str) -> None:
        self._engine = engine
        self._network = network
        self._weights = weights
        self.observed = f"personal/{expert}"
        self._attached: dict[str, str] = {}
        self._rows: dict[str, Mapping[str, Floats]] = {}
        self._compiled = compiled.known(network)
        self._together = Gathering(engine.infer, f"{self.observed}/shared")

    async def open(self, asked: bool | None) -> Network:
        """Load what all users share; the network, which then says in which form local experts are served.

        Args:
            asked: Whether they are inputs of one graph; None measures what is better here.
        """
        await self._engine.attach(self.observed, graph.observed(self._network, self._weights))
        if asked is None:
            form = await measured(self._engine, self._network, self._weights)
            _tell(form)
            asked, self._compiled = form.shared, form.compiled
        self._network = replace(self._network, shared=asked)
        if asked:
            await self._engine.attach(f"{self.observed}/shared", shared.graph(self._network, self._weights))
        return self._network

    async def place(self, mark: str, hand: Hand) -> None:
        """Put an owner's delta in service, if there is one: as a row where that can be, in a graph of its own else."""
        self.remove(mark)
        expert = hand.expert
        if expert is None or expert.delta is None:
            return
        if self._network.shared:
            with contextlib.suppress(shared.OnlyFolds):
                self._rows[mark] = shared.row(self._network, self._weights, expert.delta, expert.gate)
                return
        key = f"personal/{mark[:12]}-{expert.version}"
        try:
            await self._engine.attach(key, await asyncio.to_thread(self._folded, expert.delta, expert.gate))
        except EngineError as error:
            log.error("personal expert not loaded", why=error.message)
            return
        self._attached[mark] = key

    def _folded(self, delta: Delta, gate: Gate) -> bytes:
        local = fold(self._network, self._weights, delta)
        if self._compiled:
            return compiled.packed(compiled.personal(self._network, self._weights, local, gate))
        return graph.personal(self._network, self._weights, local, gate)

    def remove(self, mark: str) -> None:
        """Have the global expert alone answer for an owner."""
        self._rows.pop(mark, None)
        key = self._attached.pop(mark, None)
        if key is not None:
            with contextlib.suppress(NodeError):
                self._engine.detach(key)

    async def answer(self, mark: str, hand: Hand, job: Job) -> Answer:
        """Answer an input of one sample."""
        image: Mapping[str, NDArray[Any]] = {graph.INPUT: next(iter(job.inputs.values()))}
        if mark in self._rows:
            result = await self._together.run(replace(job, inputs={**image, **self._rows[mark]}))
        else:
            key = self._attached.get(mark, self.observed)
            result = await self._engine.infer(replace(job, arm=key, inputs=image))
            if key == self.observed:
                return Answer(*hand.corrected(result.outputs), result)
        outputs = result.outputs
        return Answer(outputs[graph.PROBABILITIES], bool(outputs[graph.LOCAL].item()), result)


def _tell(form: Form) -> None:
    log.info("personal form", **asdict(form))
