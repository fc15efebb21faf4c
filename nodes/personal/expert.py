"""A user's promoted expert and where it lies: whole or not there, with the version before it to go back to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from nodes.personal.delta import Delta
from nodes.personal.gate import Gate
from nodes.personal.keeping import pack, unpack
from nodes.personal.sealing import Seal, Unsealed, sync_folder, write_whole
from nodes.personal.warp import IDENTITY

CURRENT, PREVIOUS = "expert", "expert.previous"
INSTANT, DELTA = "instant", "delta"

log = structlog.get_logger("nodes.personal")


@dataclass(frozen=True)
class Judgement:
    """How an expert stood when it was promoted.

    Attributes:
        judged: Corrections that it had not learned from.
        generic_drop_fraction: What generic accuracy loses on stored samples.
    """

    judged: int = 0
    global_fraction: float = 0.0
    local_fraction: float = 0.0
    generic_drop_fraction: float = 0.0


@dataclass(frozen=True, eq=False)
class LocalExpert:
    """One version of a user's expert.

    Attributes:
        tier: ``instant``: residual weights on the global expert's features; ``delta``: a delta of its weights.
        model_digest: Of the global expert that it belongs to.
        residual_fc: Of the instant tier, as `scale` (of its features) and `coverage_fraction` (see `instant.open_to`).
        learned: Corrections that it was made from.
        learned_until: Corrections of this serial and later ones are new to it.
    """

    version: int
    tier: str
    model_digest: str
    gate: Gate
    judgement: Judgement
    learned: int
    learned_until: int = 0
    residual_fc: NDArray[np.float64] | None = None
    scale: float = 1.0
    coverage_fraction: float = 1.0
    delta: Delta | None = None


def encode(expert: LocalExpert) -> bytes:
    """As it is sealed."""
    judgement, gate = expert.judgement, expert.gate
    header: dict[str, Any] = {
        "op": "expert",
        "version": expert.version,
        "tier": expert.tier,
        "model_digest": expert.model_digest,
        "learned": expert.learned,
        "learned_until": expert.learned_until,
        "threshold": gate.threshold,
        "scale": expert.scale,
        "coverage": expert.coverage_fraction,
        "judgement": [
            judgement.judged,
            judgement.global_fraction,
            judgement.local_fraction,
            judgement.generic_drop_fraction,
        ],
    }
    tensors: dict[str, NDArray[Any]] = {
        "gate.first": gate.first_fh,
        "gate.bias": gate.bias_h,
        "gate.second": gate.second_h,
    }
    if expert.residual_fc is not None:
        tensors["residual"] = expert.residual_fc
    if expert.delta is not None:
        tensors["geometry"] = expert.delta.geometry
        tensors |= {f"delta.{name}": array for name, array in expert.delta.arrays.items()}
    return pack(header, tensors)


def decode(data: bytes) -> LocalExpert:
    """What `encode` made.

    Raises:
        Unsealed: It is not that.
    """
    held = unpack(data)
    try:
        tensors = held["tensors"]
        gate = Gate(tensors["gate.first"], tensors["gate.bias"], tensors["gate.second"], float(held["threshold"]))
        arrays = {n.removeprefix("delta."): a for n, a in tensors.items() if n.startswith("delta.")}
        geometry = tensors.get("geometry", IDENTITY)
        judged, globally, locally, drop = held["judgement"]
        return LocalExpert(
            version=int(held["version"]),
            tier=str(held["tier"]),
            model_digest=str(held["model_digest"]),
            gate=gate,
            judgement=Judgement(int(judged), float(globally), float(locally), float(drop)),
            learned=int(held["learned"]),
            learned_until=int(held.get("learned_until", 0)),
            residual_fc=tensors.get("residual"),
            scale=float(held["scale"]),
            coverage_fraction=float(held["coverage"]),
            delta=Delta(arrays, IDENTITY if np.array_equal(geometry, IDENTITY) else geometry) if arrays else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unsealed("what is kept is not an expert") from error


class Shelf:
    """Where one user's expert lies.

    Args:
        folder: The user's.
        seal: The user's.
        model_digest: The global expert in service; experts of another one are not served.
    """

    def __init__(self, folder: Path, seal: Seal, *, model_digest: str) -> None:
        self._folder = folder
        self._seal = seal
        self._model_digest = model_digest

    def current(self) -> LocalExpert | None:
        """The expert that answers; the version before it where the newest is damaged; None where there is none."""
        for name in (CURRENT, PREVIOUS):
            try:
                expert = decode(self._seal.open((self._folder / name).read_bytes(), CURRENT))
            except FileNotFoundError:
                continue
            except Unsealed:
                log.error("personal expert damaged", file=name)
                continue
            if expert.model_digest == self._model_digest:
                return expert
        return None

    def promote(self, expert: LocalExpert) -> None:
        """Put a new version in service; a kill or a power loss at any moment leaves the old or the new one."""
        current, previous = self._folder / CURRENT, self._folder / PREVIOUS
        if current.exists():
            spare = previous.with_name(f"{PREVIOUS}.new")
            spare.unlink(missing_ok=True)
            os.link(current, spare)
            spare.replace(previous)
        write_whole(current, self._seal.close(encode(expert), CURRENT))

    def promote_delta(self, delta: Delta, *, gate: Gate, judgement: Judgement, learned: int, learned_until: int) -> int:
        """Put a delta in service that was found good, as the next version; returns its number."""
        current = self.current()
        version = (0 if current is None else current.version) + 1
        self.promote(
            LocalExpert(
                version=version,
                tier=DELTA,
                model_digest=self._model_digest,
                gate=gate,
                judgement=judgement,
                learned=learned,
                learned_until=learned_until,
                delta=delta,
            )
        )
        return version

    def withdraw(self) -> None:
        """Have the global expert alone answer."""
        for name in (CURRENT, PREVIOUS):
            (self._folder / name).unlink(missing_ok=True)
        sync_folder(self._folder)

    def rollback(self) -> LocalExpert | None:
        """Put the version before this one back in service; without one, the global expert alone answers."""
        current, previous = self._folder / CURRENT, self._folder / PREVIOUS
        if previous.exists():
            previous.replace(current)
        else:
            current.unlink(missing_ok=True)
        if self._folder.exists():
            sync_folder(self._folder)
        return self.current()
