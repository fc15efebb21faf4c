"""The rim of personal language models on a node: writes for owners, takes the texts that they wanted instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from nodes.agent import messages as m
from nodes.arms import ArmSpec, Inventory
from nodes.energy.contract import Meter
from nodes.engines.contract import TextEnd, TextJob, TextPiece
from nodes.errors import ConfigError, InputInvalid
from nodes.personal import drift
from nodes.personal.choosing import Settings
from nodes.personal.expert import LocalExpert
from nodes.personal.hand import Holding, Places
from nodes.personal.house import House
from nodes.personal.network import Floats
from nodes.personal.onnx_read import NotPersonal
from nodes.personal.sealing import KeySeal, Seal, owner_mark
from nodes.personal.text.decoder import DecoderFile, encoded, read_decoder, with_delta
from nodes.personal.trainer import Subject, Trainer

TRAINING = "nodes.personal.text.training"
ENGINE = "onnx-lm"
# Users of texts lie beside those of pictures, so that forgetting one leaves the other.
FOLDER = "texts"
MOST_ANSWER_CHARS = 500
# What one question and its answer have, for the joules of a training.
TOKENS = 32


class TextHost(Protocol):
    """The engine as an office needs it."""

    @property
    def running(self) -> int:
        """Texts now."""
        ...

    @property
    def queued(self) -> int:
        """Texts that wait."""
        ...

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """Write one text."""
        ...

    async def attach(self, arm: str, model: bytes) -> None:
        """Load a decoder from memory."""
        ...


class TextHand(Holding):
    """A user who says which texts they wanted.

    Args:
        places: Where.
        model_digest: Of the global expert.
    """

    def __init__(self, places: Places, *, model_digest: str) -> None:
        super().__init__(places, model_digest=model_digest)
        self._count = len(self.corrections.all())

    @property
    def count(self) -> int:
        """See `Holding`."""
        return self._count

    def learn(self, request_id: str, answer: str) -> None:
        """Keep what a request should have been answered.

        Raises:
            FeedbackExpired: Its question is not kept.
        """
        self.corrections.add(self.inputs.take(request_id), 0, answer)
        self._count += 1


@dataclass(frozen=True, eq=False)
class _Served:
    expert: LocalExpert
    delta_n: Floats


class TextOffice(House[TextHand]):
    """A node's personal language models. `prepare` before anything else, `close` in the end.

    Args:
        settings: What the operator said.
        inventory: What the node offers.
        engine: Writes texts.
        meter: Knows joules.
        make_seal: A seal from a key; the tests bring one that does not seal.
        now_unix_s: Tells the time.

    Raises:
        ConfigError: No expert can be personalised.
    """

    def __init__(
        self,
        settings: Settings,
        inventory: Inventory,
        engine: TextHost,
        meter: Meter,
        *,
        make_seal: Callable[[bytes], Seal] = KeySeal,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        arm, self._model, self._file = choose_text(settings.expert, inventory)
        work = meter.estimate(arm.macs * TOKENS)
        trainer = Trainer(
            Subject(TRAINING, (str(arm.model_file), str(settings.models or ""))),
            day_j=settings.day_j,
            sample_j=None if work is None else work.energy_j,
            busy=lambda: bool(engine.running or engine.queued),
            now_unix_s=now_unix_s,
        )
        settings = replace(settings, folder=settings.folder / FOLDER)
        super().__init__(settings, arm, trainer, make_seal=make_seal, now_unix_s=now_unix_s)
        self._engine = engine
        self._served: dict[str, _Served] = {}

    async def prepare(self) -> None:
        """Load the decoder that takes a delta per sequence: one copy for all users."""
        await self._engine.attach(self._key, await asyncio.to_thread(with_delta, self._model))
        self._begin()

    @property
    def _key(self) -> str:
        return f"personal/{self.arm.expert}"

    async def write(
        self, owner: m.Owner, request_id: str, job: TextJob
    ) -> tuple[AsyncGenerator[TextPiece | TextEnd], Callable[[TextEnd], m.PersonalNote]]:
        """The owner's text, and what to say of it once it has ended; the question is kept for a correction."""
        mark = owner_mark(owner.tenant, owner.user)
        hand = await self._hand(mark)
        question = question_of(job)
        served = self._served.get(mark)
        seen_1g = self._file.seen(question)[None]
        by_local = served is not None and bool(served.expert.gate.score(seen_1g)[0] > 0.0)
        job = replace(job, arm=self._key, delta_n=served.delta_n if served is not None and by_local else None)
        self._spawn(self._keep(mark, request_id, encoded(question), self._expect(mark, request_id)))

        def conclude(end: TextEnd) -> m.PersonalNote:
            margin = 1.0 if end.margin_fraction is None else end.margin_fraction
            watch, ask = drift.observe(hand.watch, by_local=by_local, margin=margin, now_s=self._now_unix_s())
            hand.asked(watch)
            return m.PersonalNote("local" if by_local else "global", self._status(hand), ask)

        return self._engine.generate(job), conclude

    # ---- what differs

    async def _open(self, places: Places) -> TextHand:
        return await asyncio.to_thread(lambda: TextHand(places, model_digest=self.arm.model_digest))

    async def _place(self, mark: str, hand: TextHand) -> None:
        self._remove(mark)
        if hand.expert is not None and hand.expert.delta is not None:
            self._served[mark] = _Served(hand.expert, self._file.row(hand.expert.delta.arrays))

    def _remove(self, mark: str) -> None:
        self._served.pop(mark, None)

    async def _correct(self, order: m.PersonalOrder, mark: str, hand: TextHand) -> None:
        answer = order.label.strip()
        if not 0 < len(answer) <= MOST_ANSWER_CHARS:
            raise InputInvalid(f"label must be the wanted text, 1 to {MOST_ANSWER_CHARS} characters")
        await asyncio.to_thread(hand.learn, order.request_id, answer)
        self._maybe_train(mark, hand)


def question_of(job: TextJob) -> str:
    """What the user said last, which is all that our experts read.

    Raises:
        InputInvalid: No message is the user's.
    """
    said = [content for role, content in job.messages if role == "user"]
    if not said:
        raise InputInvalid("a text request needs a message of the user")
    return said[-1]


def choose_text(expert: str, inventory: Inventory) -> tuple[ArmSpec, bytes, DecoderFile]:
    """The global expert: the one that was named, or the best of those that can be personalised.

    Raises:
        ConfigError: There is none.
    """
    found: list[tuple[float, ArmSpec, bytes, DecoderFile]] = []
    for arm in inventory.arms:
        if arm.engine != ENGINE or arm.model_file is None or expert not in ("", arm.expert):
            continue
        try:
            model = arm.model_file.read_bytes()
            found.append((arm.quality_fraction, arm, model, read_decoder(model)))
        except (NotPersonal, OSError) as error:
            if expert:
                raise ConfigError(f"--personal-expert: {arm.expert} cannot be personalised: {error}") from error
    if not found:
        raise ConfigError("--personal: no language model of this node can be personalised")
    _, best, model, file = max(found, key=lambda one: one[0])
    return best, model, file
