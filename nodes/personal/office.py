"""The rim of personal experts on a node: answers for owners, takes corrections, trains when nothing else runs.

One event loop. What blocks (disk, training) runs in threads and a process; one owner's work is done in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
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
from nodes.personal.keeping import FeedbackExpired, sweep
from nodes.personal.network import macs
from nodes.personal.sealing import KeySeal, Seal, Unsealed, owner_mark, write_whole
from nodes.personal.serving import Serving
from nodes.personal.trainer import Subject, Trainer

MAX_HANDS = 64
BATCH = 128
SWEEP_S = 60.0

log = structlog.get_logger("nodes.personal")


class Office:
    """A node's personal experts. `prepare` before anything else, `close` in the end.

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
        self._settings = settings
        self._engine = engine
        self._make_seal = make_seal
        self._now_unix_s = now_unix_s
        self.arm, self._network, self._weights = choose(settings, inventory)
        self._inventory = inventory
        self._base: Base | None = None
        self._hands: OrderedDict[str, Hand] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._serving = Serving(engine, self._network, self._weights, expert=self.arm.expert)
        self._keeping: dict[tuple[str, str], asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        work = meter.estimate(macs(self._network, self._weights))
        subject = Subject(self.arm.model_file, self._network.side, settings.models)
        self._trainer = Trainer(
            subject,
            day_j=settings.day_j,
            sample_j=None if work is None else work.energy_j,
            busy=lambda: bool(engine.running or engine.queued),
            now_unix_s=now_unix_s,
        )

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
        self._settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweeping = self._spawn(self._sweep_forever())
        log.info("personal experts", expert=self.arm.expert, trains=self._trainer.able)

    async def close(self) -> None:
        """Stop what runs; a training is killed and leaves what was in service before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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

    async def keep(self, owner: m.Owner, request_id: str, image: NDArray[Any]) -> None:
        """Keep an input that ran elsewhere."""
        mark = owner_mark(owner.tenant, owner.user)
        kept = self._expect(mark, request_id)
        try:
            await self._hand(mark)
        except BaseException:
            kept.set()
            raise
        await self._keep(mark, request_id, image, kept)

    def _expect(self, mark: str, request_id: str) -> asyncio.Event:
        """From now on a correction of this request waits until its input is on disk."""
        kept = self._keeping[mark, request_id] = asyncio.Event()
        return kept

    async def _keep(self, mark: str, request_id: str, image: NDArray[Any], kept: asyncio.Event) -> None:
        try:
            async with self._lock(mark):
                hand = self._hands.get(mark)
                if hand is not None:
                    await asyncio.to_thread(hand.inputs.put, request_id, image)
        finally:
            kept.set()
            self._keeping.pop((mark, request_id), None)

    async def settled(self) -> None:
        """Wait until everything that was begun and will end by itself has ended."""
        while busy := [task for task in self._tasks if not task.done() and task is not self._sweeping]:
            await asyncio.gather(*busy, return_exceptions=True)

    def looked(self, owner: m.Owner) -> Looks | None:
        """What is held in memory of an owner's corrections; None for nothing. It never leaves the node."""
        hand = self._hands.get(owner_mark(owner.tenant, owner.user))
        return None if hand is None else hand.own

    def weights_of(self, owner: m.Owner) -> NDArray[np.float64] | None:
        """The owner's instant head as it stands, promoted or not."""
        hand = self._hands.get(owner_mark(owner.tenant, owner.user))
        return None if hand is None else hand.head.weight_fc

    # ---- orders

    async def follow(self, order: m.PersonalOrder) -> m.PersonalReport:
        """Do what the gateway passes on for an owner; never raises."""
        try:
            mark = owner_mark(order.owner.tenant, order.owner.user)
            hand = await self._hand(mark)
            kept = self._keeping.get((mark, order.request_id))
            if kept is not None:
                await kept.wait()
            async with self._lock(mark):
                return m.PersonalReport(order.order_id, status=await self._do(order, mark, hand))
        except FeedbackExpired as expired:
            return m.PersonalReport(order.order_id, "FEEDBACK_EXPIRED", expired.message)
        except InputInvalid as invalid:
            return m.PersonalReport(order.order_id, "FIELD_OUT_OF_RANGE", invalid.message)
        except Exception as error:  # The rim: whatever fails here, the gateway gets a report.
            log.exception("personal order failed", verb=order.verb)
            why = "The node could not do this." if not isinstance(error, Unsealed) else error.message
            return m.PersonalReport(order.order_id, "PERSONAL_FAILED", why)

    async def _do(self, order: m.PersonalOrder, mark: str, hand: Hand) -> m.PersonalStatus:
        match order.verb:
            case "correct":
                await self._correct(order, mark, hand)
            case "train":
                hand.trained_on = 0
                self._maybe_train(mark, hand)
            case "rollback":
                await asyncio.to_thread(hand.rollback)
                await self._serving.place(mark, hand)
            case "export":
                return replace(self._status(hand), file=str(await asyncio.to_thread(self._export, mark, hand)))
            case "forget":
                self._hands.pop(mark, None)
                self._serving.remove(mark)
                await asyncio.to_thread(hand.forget)
                return m.PersonalStatus(node=self._settings.node, task=self.arm.task, state="forgotten")
            case "status":
                pass
            case _:
                raise InputInvalid("verb must be train, status, rollback, export or forget")
        return self._status(hand)

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
            await self._serving.place(mark, hand)
        self._maybe_train(mark, hand)

    def _export(self, mark: str, hand: Hand) -> Path:
        """The sealed expert, copied: whoever has the owner's key can open it, nobody else."""
        source, target = hand.folder / "expert", self._settings.folder / f"{mark}.export"
        if not source.exists():
            raise InputInvalid("there is no expert of this user to export")
        write_whole(target, source.read_bytes())
        return target

    # ---- training

    def _maybe_train(self, mark: str, hand: Hand) -> None:
        if self._trainer.wants(hand):
            self._spawn(self._train(mark, hand))

    async def _train(self, mark: str, hand: Hand) -> None:
        await self._trainer.train(hand)
        async with self._lock(mark):
            if mark in self._hands:
                await asyncio.to_thread(hand.reload)
                await self._serving.place(mark, hand)

    # ---- owners

    async def _hand(self, mark: str) -> Hand:
        found = self._hands.get(mark)
        if found is not None:
            self._hands.move_to_end(mark)
            return found
        async with self._lock(mark):
            if mark in self._hands:
                return self._hands[mark]
            places = Places(self._settings.folder / mark, self._settings.bounds, self._make_seal, self._now_unix_s)
            hand = await asyncio.to_thread(Hand, self._ready(), places)
            kept = await asyncio.to_thread(hand.kept)
            if kept:
                images = np.concatenate([one.image for one in kept])
                hand.remember(await self._look(images, np.array([one.label for one in kept])))
            self._hands[mark] = hand
            await self._serving.place(mark, hand)
            while len(self._hands) > MAX_HANDS:
                oldest, _ = self._hands.popitem(last=False)
                self._serving.remove(oldest)
            return hand

    def _status(self, hand: Hand) -> m.PersonalStatus:
        expert = hand.expert
        told = m.PersonalStatus(
            node=self._settings.node,
            task=self.arm.task,
            expert=self.arm.expert,
            corrections=hand.count,
            state=hand.state,
            training_energy_j=hand.training_energy_j,
        )
        if expert is None:
            return told
        judgement = expert.judgement
        return replace(
            told,
            tier=expert.tier,
            version=expert.version,
            judged=judgement.judged,
            global_fraction=judgement.global_fraction,
            local_fraction=judgement.local_fraction,
            generic_drop_fraction=judgement.generic_drop_fraction,
        )

    # ---- small things

    def _ready(self) -> Base:
        if self._base is None:
            raise EngineError("personal experts are not ready yet")
        return self._base

    def _lock(self, mark: str) -> asyncio.Lock:
        return self._locks.setdefault(mark, asyncio.Lock())

    async def _look(self, images: NDArray[Any], labels_n: NDArray[Any]) -> Looks:
        parts = []
        for at in range(0, len(images), BATCH):
            rows = np.asarray(images[at : at + BATCH], np.float32)
            result = await self._engine.infer(Job(self._serving.observed, {graph.INPUT: rows}))
            parts.append(looks(rows, labels_n[at : at + BATCH], result.outputs))
        return join(parts)

    async def _sweep_forever(self) -> None:
        while True:
            now_unix_s = self._now_unix_s()
            await asyncio.to_thread(
                lambda: sweep(self._settings.folder, self._settings.bounds, now_unix_s=now_unix_s)  # noqa: B023
            )
            await asyncio.sleep(SWEEP_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _margin(probabilities: NDArray[np.floating[Any]]) -> float:
    second, first = np.partition(probabilities.reshape(-1), -2)[-2:]
    return float(first - second)
