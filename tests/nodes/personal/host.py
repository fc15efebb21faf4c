"""An engine in the test's own process, and a user to write for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.demo.writer import Writer
from nodes.agent import messages as m
from nodes.arms import ArmSpec
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.errors import EngineError
from nodes.inventory import load_inventory
from nodes.personal.choosing import Settings
from nodes.personal.office import Office
from nodes.personal.sealing import KeySeal, Seal
from nodes.worker.sessions import Model, model_of
from nodes.zoo.catalog import load_catalog

EXPERT = "digits-lenet5"
WRITER = Writer(slant=0.5, rotation=-0.2, width=0.8, habits={7: "bar", 4: "mirror"})
ADA = m.Owner("tenant-a", "ada")


class PlainSeal:
    """Does not seal: what the canary scan must notice."""

    def __init__(self, key: bytes) -> None:
        pass

    def close(self, data: bytes, role: str) -> bytes:
        return data

    def open(self, data: bytes, role: str) -> bytes:
        return data


class HostEngine:
    """What a worker runs, without a process around it."""

    def __init__(self) -> None:
        self.events = EngineEvents()
        self.state = EngineState.READY
        self.restarts = self.running = self.queued = 0
        self.models: dict[str, Model] = {}
        self.batches: list[tuple[str, int]] = []

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        for arm in arms:
            assert arm.model_file is not None
            await self.attach(arm.key, arm.model_file.read_bytes())

    async def attach(self, arm: str, model: bytes) -> None:
        self.models[arm] = model_of(model, Path(""), "")

    def detach(self, arm: str) -> None:
        self.models.pop(arm, None)

    async def infer(self, job: Job) -> JobResult:
        job.on_start()
        started_s = perf_counter()
        found = self.models[job.arm].run(job.inputs)
        self.batches.append((job.arm, len(next(iter(job.inputs.values())))))
        return JobResult(found, 0.0, (perf_counter() - started_s) * 1e3)

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        raise EngineError("tensors only")

    async def close(self) -> None:
        self.models.clear()


@cache
def written() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Digits that no expert has seen, in the user's hand."""
    held_out = load_catalog().held_out
    labels_n = held_out.labels_n.astype(np.int64)
    return WRITER.write(held_out.inputs, labels_n), labels_n


async def open_office(
    folder: Path,
    *,
    make_seal: Callable[[bytes], Seal] = KeySeal,
    now_unix_s: Callable[[], float] = lambda: 1e9,
    engine: HostEngine | None = None,
    expert: str = EXPERT,
    **settings: Any,
) -> Office:
    """An office that is ready; training is off unless asked for."""
    inventory = load_inventory(settings.get("models"), (expert,))
    engine = engine or HostEngine()
    await engine.load(list(inventory.arms))
    given = Settings(folder, "node", expert, **{"day_j": 0.0, **settings})
    office = Office(given, inventory, engine, UnmeasuredMeter(), make_seal=make_seal, now_unix_s=now_unix_s)
    await office.prepare()
    return office


async def trained_office(folder: Path, rows: range, **settings: Any) -> Office:
    """An office whose user made these corrections and was trained for once, by the last of them."""
    office = await open_office(folder, **settings)
    await teach(office, rows[:-1])
    await office.close()
    office = await open_office(folder, day_j=1_000.0, **settings)
    await teach(office, rows[-1:])
    async with asyncio.timeout(180.0):  # The machine may be shared.
        await office.settled()
    return office


async def ask(office: Office, image: NDArray[np.float32], request_id: str, owner: m.Owner = ADA) -> tuple[int, str]:
    """The label that an owner is answered with, and by whom; returns when the input is kept."""
    job = Job(office.arm.key, {"image": image[None]})
    result, note = await office.infer(owner, request_id, job)
    await office.settled()
    return int(result.outputs["probabilities"].argmax()), note.by


async def correct(office: Office, request_id: str, label: int | str, owner: m.Owner = ADA) -> m.PersonalReport:
    return await office.follow(m.PersonalOrder(1, owner, "digits", "correct", request_id, str(label)))


async def teach(office: Office, rows: range, owner: m.Owner = ADA) -> m.PersonalReport:
    images, labels_n = written()
    report = m.PersonalReport(0)
    for row in rows:
        await ask(office, images[row], f"r{row}", owner)
        report = await correct(office, f"r{row}", int(labels_n[row]), owner)
        assert report.reason == ""
    return report
