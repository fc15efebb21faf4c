"""What a node keeps of a user between a request and its correction, and of corrections: sealed, bounded, timed.

Inputs wait for a correction for some hours and within some bytes; corrected ones move to a reservoir of fixed size,
which is what a local expert learns from.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.errors import NodeError
from nodes.personal.sealing import Seal, Unsealed, write_whole
from nodes.worker.frames import FrameDecoder, FrameError, Tensors, encode

HOUR_S = 3_600.0
MIB = 1 << 20
RESERVOIR = 400
# Corrections lie in so many folds, by order: what judges a candidate is never what it learned.
JUDGED_EVERY = 4


class FeedbackExpired(NodeError):
    """The input of that request is not kept any more, or never was."""


@dataclass(frozen=True)
class Bounds:
    """How long and how much. `limit_bytes` holds for all users of the node together."""

    keep_s: float = 24 * HOUR_S
    limit_bytes: int = 64 * MIB


class Inputs:
    """Inputs of one user that a correction may come for.

    Args:
        folder: The user's.
        seal: The user's.
        keep_s: How long they wait.
        now_unix_s: Tells the time; files carry it across restarts.
    """

    def __init__(self, folder: Path, seal: Seal, *, keep_s: float, now_unix_s: Callable[[], float] = time.time) -> None:
        self._folder = folder / "inputs"
        self._seal = seal
        self._keep_s = keep_s
        self._now_unix_s = now_unix_s

    def put(self, request_id: str, image: NDArray[Any]) -> None:
        """Keep an input. Cost: one small file, synced."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        header = {"op": "input", "at_unix_s": self._now_unix_s()}
        file = self._file(request_id)
        write_whole(file, self._seal.close(encode(header, {"image": image}), file.name))

    def take(self, request_id: str) -> NDArray[Any]:
        """The input of a request, which is then no longer kept here.

        Raises:
            FeedbackExpired: It is not kept.
        """
        file = self._file(request_id)
        try:
            frame = unpack(self._seal.open(file.read_bytes(), file.name))
        except (FileNotFoundError, Unsealed):
            raise FeedbackExpired("The input of this request is not kept any more.") from None
        file.unlink(missing_ok=True)
        if self._now_unix_s() - float(frame["at_unix_s"]) > self._keep_s:
            raise FeedbackExpired("The input of this request is not kept any more.")
        image: NDArray[Any] = frame["tensors"]["image"]
        return image.copy()

    def _file(self, request_id: str) -> Path:
        return self._folder / hashlib.sha256(request_id.encode()).hexdigest()[:32]


def sweep(root: Path, bounds: Bounds, *, now_unix_s: float) -> int:
    """Remove inputs that waited too long, then the oldest beyond the bytes allowed, of all users; bytes left."""
    kept: list[tuple[float, int, Path]] = []
    for file in root.glob("*/inputs/*"):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        if now_unix_s - status.st_mtime > bounds.keep_s:
            file.unlink(missing_ok=True)
        else:
            kept.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in kept)
    for _, size, file in sorted(kept):
        if total <= bounds.limit_bytes:
            break
        file.unlink(missing_ok=True)
        total -= size
    return total


@dataclass(frozen=True, eq=False)
class Correction:
    """A corrected sample.

    Attributes:
        serial: How many came before it.
        answer: The right text, where texts are corrected; `label` says nothing then.
    """

    image: NDArray[Any]
    label: int
    serial: int
    answer: str = ""


class Corrections:
    """A user's corrections: a reservoir of fixed size in which the old make way for the new at random.

    Args:
        folder: The user's.
        seal: The user's.
        limit: Most that are kept.
        seed: Of the choice which one goes.
    """

    def __init__(self, folder: Path, seal: Seal, *, limit: int = RESERVOIR, seed: int = 0) -> None:
        self._folder = folder / "corrections"
        self._seal = seal
        self._limit = limit
        self._rng = np.random.default_rng(seed)

    def add(self, image: NDArray[Any], label: int, answer: str = "") -> Correction:
        """Keep one more."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = self._slots()
        serial = max((one.serial for one in self.all()), default=-1) + 1
        correction = Correction(image, label, serial, answer)
        # The newest is always kept: it tells how many there were, and hands move on.
        slot = len(kept) if len(kept) < self._limit else int(self._rng.integers(self._limit))
        file = self._folder / f"{slot:04d}"
        header = {"op": "correction", "label": label, "serial": serial, "answer": answer}
        write_whole(file, self._seal.close(encode(header, {"image": image}), file.name))
        return correction

    def all(self) -> list[Correction]:
        """What is kept, oldest first; damaged ones are left out."""
        return sorted(self._read(), key=lambda one: one.serial)

    def _read(self) -> Iterator[Correction]:
        for file in self._slots():
            try:
                frame = unpack(self._seal.open(file.read_bytes(), file.name))
            except Unsealed:
                continue
            image, answer = frame["tensors"]["image"], str(frame.get("answer", ""))
            yield Correction(image, int(frame["label"]), int(frame["serial"]), answer)

    def _slots(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9][0-9][0-9][0-9]"))


def unpack(data: bytes) -> dict[str, Any]:
    """Header and ``tensors`` of one frame.

    Raises:
        Unsealed: It is not a whole frame.
    """
    try:
        frame = next(FrameDecoder().feed(data), None)
        if frame is None:
            raise Unsealed("what is kept is cut")
        return {**frame.header, "tensors": frame.tensors()}
    except FrameError as error:
        raise Unsealed("what is kept is not a frame") from error


def pack(header: dict[str, Any], tensors: Tensors) -> bytes:
    """Header and tensors as bytes."""
    return encode(header, tensors)
