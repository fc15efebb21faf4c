"""One user's handwriting, corrected ten times: what the node's instant expert makes of it. Needs no torch.

Everything runs as on a node, with the same parts, but in this process and in a folder that is gone afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from deploy.demo.writer import Writer
from nodes.agent import messages as m
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.contract import Job, JobResult
from nodes.inventory import load_inventory
from nodes.personal.choosing import Settings
from nodes.personal.office import Office
from nodes.worker.sessions import Model, model_of
from nodes.zoo.catalog import load_catalog

EXPERT = "digits-lenet5"
CORRECTIONS = 10
JUDGED = 150
WRITER = Writer(slant=0.5, rotation=-0.15, width=0.85, habits={7: "bar"})


@dataclass(frozen=True)
class Handwriting:
    """Right answers of the global expert and of the user's own, on digits that were not corrected.

    Attributes:
        generic_drop_fraction: What everybody else's digits lose, on stored samples.
    """

    before_fraction: float
    after_fraction: float
    corrections: int
    judged: int
    generic_drop_fraction: float

    def lines(self) -> tuple[str, str]:
        """One line each."""
        return (
            f"a user's handwriting, as shipped: {self.before_fraction:.1%} of {self.judged} digits right",
            f"after {self.corrections} corrections on the node: {self.after_fraction:.1%}"
            f" (everybody else's digits lose {self.generic_drop_fraction:.2%}; nothing left the node)",
        )


class _Engine:
    """What a worker runs, in this process, as an office needs it."""

    running = queued = 0

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}

    async def attach(self, arm: str, model: bytes) -> None:
        """Load a model."""
        self._models[arm] = model_of(model, Path(), "")

    def detach(self, arm: str) -> None:
        """Forget it."""
        self._models.pop(arm, None)

    async def infer(self, job: Job) -> JobResult:
        """Run it."""
        started_s = time.perf_counter()
        outputs = self._models[job.arm].run(job.inputs)
        return JobResult(outputs, 0.0, (time.perf_counter() - started_s) * 1e3)


def correct_a_user() -> Handwriting:
    """Ten of the user's digits that the global expert gets wrong are corrected. Takes a second or two."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_story(Path(folder)))


def quiet_story() -> Handwriting:
    """The same without the node's log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return correct_a_user()


async def _story(folder: Path) -> Handwriting:
    held_out = load_catalog().held_out
    labels_n = held_out.labels_n.astype(np.int64)
    images = WRITER.write(held_out.inputs, labels_n)
    office = Office(
        Settings(folder, "demo", EXPERT, day_j=0.0), load_inventory(None, (EXPERT,)), _Engine(), UnmeasuredMeter()
    )
    await office.prepare()
    owner, judged = m.Owner("", "demo"), range(len(labels_n) - JUDGED, len(labels_n))

    async def label(row: int) -> int:
        job = Job(office.arm.key, {"image": images[row : row + 1]})
        result, _ = await office.infer(owner, f"r{row}", job)
        await office.settled()
        return int(result.outputs["probabilities"].argmax())

    before = np.mean([await label(row) == labels_n[row] for row in judged])
    corrected, status = 0, m.PersonalStatus()
    for row in range(len(labels_n) - JUDGED):
        if corrected == CORRECTIONS:
            break
        if await label(row) != labels_n[row]:
            order = m.PersonalOrder(row, owner, "digits", "correct", f"r{row}", str(labels_n[row]))
            status = (await office.follow(order)).status
            corrected += 1
    after = np.mean([await label(row) == labels_n[row] for row in judged])
    await office.close()
    return Handwriting(float(before), float(after), corrected, JUDGED, status.generic_drop_fraction)


if __name__ == "__main__":
    print("\n".join(quiet_story().lines()))
