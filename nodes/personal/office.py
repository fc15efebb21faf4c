"""The rim of personal experts of pictures on a node: answers for owners and takes corrections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from nodes.agent import messages as m
from nodes.arms import ArmSpec, Inventory
from nodes.energy.contract import Meter
from nodes.engines.contract import Job, JobResult
from nodes.errors import EngineError, InputInvalid
from nodes.personal import drift, graph
from nodes.personal.base import Base, Looks, join, looks, prior, split
from nodes.personal.choosing import Host, Settings, choose
from nodes.personal.hand import Hand, Places
from nodes.personal.house import House
from nodes.personal.network import macs
from nodes.personal.sealing import KeySeal, Seal, owner_mark
from nodes.personal.serving import Serving
from nodes.personal.trainer import Subject, Trainer

BATCH = 128
TRAINING = "nodes.personal.training"

log = structlog.get_logger("nodes.personal")


class Office(House[Hand]):
    """A node's personal experts of pictures. `prepare` before anything else, `close` in the end.

    Args:
        settings: What the operator said.
        inventory: What the node offers.
        engine: Runs models.
        meter: Knows joules.
        make_seal: A seal from a key; the tests bring one that does not seal.
        now_unix_s: Tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        inventory: Inventory,
        engine: Host,
        meter: Meter,
        *,
        make_seal: Callable[[bytes], Seal] = KeySeal,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        arm, self._network, self._weights = choose(settings, inventory)
        work = meter.estimate(macs(self._network, self._weights))
        trainer = Trainer(
            Subject(TRAINING, (str(arm.model_file), str(self._network.side), str(settings.models or ""))),
            day_j=settings.day_j,
            sample_j=None if work is None else work.energy_j,
            busy=lambda: bool(engine.running or engine.queued),
            now_unix_s=now_unix_s,
        )
        super().__init__(settings, arm, trainer, make_seal=make_seal, now_unix_s=now_unix_s)
        self._engine = engine
        self._inventory = inventory
        self._base: Base | None = None
        self._serving = Serving(engine, self._network, self._weights, expert=arm.expert)

    async def prepare(self) -> None:
        """Load what all users share and look at the stored generic samples. Takes some runs of the network."""
        self._network = await self._serving.open(self._settings.shared)
        self._trainer.shared = self._network.shared
        task = self._inventory.task(self.arm.task)
        reference = self._inventory.evidence[task.reference_digest]
        replay, stored = split(await self._look(reference["inputs"], reference["labels"]))
        self._base = Base(
            expert=self.arm.expert,
            task=task.name,
            model_digest=self.arm.model_digest,
            labels=task.labels,
            network=self._network,
            weights=self._weights,
            replay=replay,
            stored=stored,
            prior=prior(replay),
        )
        self._begin()

    # ---- answers

    def answers(self, arm: ArmSpec, job: Job) -> bool:
        """Whether owners' experts belong to this arm and take this input, which must be one sample."""
        return arm.key == self.arm.key and len(next(iter(job.inputs.values()))) == 1

    async def infer(self, owner: m.Owner, request_id: str, job: Job) -> tuple[JobResult, m.PersonalNote]:
        """The owner's answer to one input, which is then kept for a correction."""
        mark = owner_mark(owner.tenant, owner.user)
        hand = await self._hand(mark)
        image = next(iter(job.inputs.values()))
        answer = await self._serving.answer(mark, hand, job)
        probabilities, by_local, result = answer.probabilities, answer.by_local, answer.result
        self._spawn(self._keep(mark, request_id, image, self._expect(mark, request_id)))
        watch, ask = drift.observe(
            hand.watch, by_local=by_local, margin=_margin(probabilities), now_s=self._now_unix_s()
        )
        hand.asked(watch)
        task = self._inventory.task(self.arm.task)
        name = task.output.name if task.output else graph.PROBABILITIES
        note = m.PersonalNote("local" if by_local else "global", self._status(hand), ask)
        return JobResult({name: probabilities}, result.queue_ms, result.compute_ms), note

    def looked(self, owner: m.Owner) -> Looks | None:
        """What is held in memory of an owner's corrections; None for nothing. It never leaves the node."""
        hand = self._hands.get(owner_mark(owner.tenant, owner.user))
        return None if hand is None else hand.own

    def weights_of(self, owner: m.Owner) -> NDArray[np.float64] | None:
        """The owner's instant head as it stands, promoted or not."""
        hand = self._hands.get(owner_mark(owner.tenant, owner.user))
        return None if hand is None else hand.head.weight_fc

    async def _correct(self, order: m.PersonalOrder, mark: str, hand: Hand) -> None:
        base = self._ready()
        if order.label not in base.labels:
            raise InputInvalid(f"label must be one of {', '.join(base.labels[:20])}")
        label = base.labels.index(order.label)
        image = await asyncio.to_thread(hand.inputs.take, order.request_id)
        await asyncio.to_thread(hand.corrections.add, image, label)
        seen = await self._look(image, np.array([label]))
        served = await self._serving.answer(mark, hand, Job(self.arm.key, {graph.INPUT: image}))
        hand.tried(right=int(served.probabilities.argmax()) == label, global_right=bool(seen.right_n[0]))
        hand.remember(seen)
        if await asyncio.to_thread(hand.consider):
            await self._place(mark, hand)
        self._maybe_train(mark, hand)

    # ---- corrections and owners

    async def _open(self, places: Places) -> Hand:
        hand = await asyncio.to_thread(Hand, self._ready(), places)
        kept = await asyncio.to_thread(hand.kept)
        if kept:
            images = np.concatenate([one.image for one in kept])
            hand.remember(await self._look(images, np.array([one.label for one in kept])))
        return hand

    async def _place(self, mark: str, hand: Hand) -> None:
        await self._serving.place(mark, hand)

    def _remove(self, mark: str) -> None:
        self._serving.remove(mark)

    # ---- small things

    def _ready(self) -> Base:
        if self._base is None:
            raise EngineError("personal experts are not ready yet")
        return self._base

    async def _look(self, images: NDArray[Any], labels_n: NDArray[Any]) -> Looks:
        parts = []
        for at in range(0, len(images), BATCH):
            rows = np.asarray(images[at : at + BATCH], np.float32)
            result = await self._engine.infer(Job(self._serving.observed, {graph.INPUT: rows}))
            parts.append(looks(rows, labels_n[at : at + BATCH], result.outputs))
        return join(parts)


def _margin(probabilities: NDArray[np.floating[Any]]) -> float:
    second, first = np.partition(probabilities.reshape(-1), -2)[-2:]
    return float(first - second)
