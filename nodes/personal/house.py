"""What is the same for all who let an expert learn them: folders, orders in turn, trainings, expiry, forgetting.

One event loop. What blocks (disk, training) runs in threads and a process; one owner's work is done in order.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from numpy.typing import NDArray

from nodes.agent import messages as m
from nodes.arms import ArmSpec
from nodes.errors import InputInvalid
from nodes.personal.choosing import Settings
from nodes.personal.hand import Holding, Places
from nodes.personal.keeping import FeedbackExpired, sweep
from nodes.personal.sealing import KeySeal, Seal, Unsealed, owner_mark, write_whole
from nodes.personal.trainer import Trainer

MAX_HANDS = 64
SWEEP_S = 60.0

H = TypeVar("H", bound=Holding)

log = structlog.get_logger("nodes.personal")


class House(ABC, Generic[H]):
    """The users of one expert of a node.

    Args:
        settings: What the operator said.
        arm: The global expert.
        trainer: Trains deltas.
        make_seal: A seal from a key; the tests bring one that does not seal.
        now_unix_s: Tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        arm: ArmSpec,
        trainer: Trainer,
        *,
        make_seal: Callable[[bytes], Seal] = KeySeal,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.arm = arm
        self._settings = settings
        self._trainer = trainer
        self._make_seal = make_seal
        self._now_unix_s = now_unix_s
        self._hands: OrderedDict[str, H] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._keeping: dict[tuple[str, str], asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    # ---- what differs

    @abstractmethod
    async def _open(self, places: Places) -> H:
        """A user from disk."""

    @abstractmethod
    async def _place(self, mark: str, hand: H) -> None:
        """Have the user's delta answer, if one is in service."""

    @abstractmethod
    def _remove(self, mark: str) -> None:
        """Have the global expert alone answer."""

    @abstractmethod
    async def _correct(self, order: m.PersonalOrder, mark: str, hand: H) -> None:
        """Learn what the right answer to a request is."""

    # ---- life

    async def close(self) -> None:
        """Stop what runs; a training is killed and leaves what was in service before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heard(self) -> None:
        """Work of any kind has come to the node; trainings stand back."""
        self._trainer.heard()

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

    async def _do(self, order: m.PersonalOrder, mark: str, hand: H) -> m.PersonalStatus:
        match order.verb:
            case "correct":
                await self._correct(order, mark, hand)
            case "train":
                hand.trained_on = 0
                self._maybe_train(mark, hand)
            case "rollback":
                await asyncio.to_thread(hand.rollback)
                await self._place(mark, hand)
            case "export":
                return replace(self._status(hand), file=str(await asyncio.to_thread(self._export, mark, hand)))
            case "forget":
                self._hands.pop(mark, None)
                self._remove(mark)
                await asyncio.to_thread(hand.forget)
                return m.PersonalStatus(node=self._settings.node, task=self.arm.task, state="forgotten")
            case "status":
                pass
            case _:
                raise InputInvalid("verb must be train, status, rollback, export or forget")
        return self._status(hand)

    def _export(self, mark: str, hand: H) -> Path:
        """The sealed expert, copied: whoever has the owner's key can open it, nobody else."""
        source, target = hand.folder / "expert", self._settings.folder / f"{mark}.export"
        if not source.exists():
            raise InputInvalid("there is no expert of this user to export")
        write_whole(target, source.read_bytes())
        return target

    # ---- training

    def _maybe_train(self, mark: str, hand: H) -> None:
        if self._trainer.wants(hand):
            self._spawn(self._train(mark, hand))

    async def _train(self, mark: str, hand: H) -> None:
        await self._trainer.train(hand)
        async with self._lock(mark):
            if mark in self._hands:
                await asyncio.to_thread(hand.reload)
                await self._place(mark, hand)

    # ---- owners

    async def _hand(self, mark: str) -> H:
        found = self._hands.get(mark)
        if found is not None:
            self._hands.move_to_end(mark)
            return found
        async with self._lock(mark):
            if mark in self._hands:
                return self._hands[mark]
            places = Places(self._settings.folder / mark, self._settings.bounds, self._make_seal, self._now_unix_s)
            hand = await self._open(places)
            self._hands[mark] = hand
            await self._place(mark, hand)
            while len(self._hands) > MAX_HANDS:
                oldest, _ = self._hands.popitem(last=False)
                self._remove(oldest)
            return hand

    def _begin(self) -> None:
        """From now on users may come."""
        self._settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweeping = self._spawn(self._sweep_forever())
        log.info("personal experts", expert=self.arm.expert, trains=self._trainer.able)

    def _status(self, hand: H) -> m.PersonalStatus:
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

    def _lock(self, mark: str) -> asyncio.Lock:
        return self._locks.setdefault(mark, asyncio.Lock())

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
