"""One user on their home node: what is kept of them on disk, and what of it is in memory. No event loop, no engine.

Methods block on the disk; one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import graph
from nodes.personal.base import Base, Looks, join
from nodes.personal.drift import Watch
from nodes.personal.expert import DELTA, INSTANT, LocalExpert, Shelf
from nodes.personal.instant import InstantHead, coverage, open_to, residual
from nodes.personal.judging import Verdict, judge_instant
from nodes.personal.keeping import Bounds, Correction, Corrections, Inputs
from nodes.personal.sealing import Seal, destroy, owner_key
from nodes.personal.trial import Trial

# A delta is trained again when there are so many more corrections than it was made from.
TRAIN_AFTER = 20
TRAIN_GROWTH_FRACTION = 0.3


@dataclass(frozen=True)
class Places:
    """Where a user is kept, and how.

    Args:
        make_seal: A seal from a key.
        now_unix_s: Tells the time.
    """

    folder: Path
    bounds: Bounds
    make_seal: Callable[[bytes], Seal]
    now_unix_s: Callable[[], float]


class Holding(ABC):
    """One user's inputs, corrections and expert, whatever it is that they correct.

    Args:
        places: Where.
        model_digest: Of the global expert.
    """

    def __init__(self, places: Places, *, model_digest: str) -> None:
        self.folder = places.folder
        seal = places.make_seal(owner_key(places.folder))
        self.inputs = Inputs(places.folder, seal, keep_s=places.bounds.keep_s, now_unix_s=places.now_unix_s)
        self.corrections = Corrections(places.folder, seal)
        self.shelf = Shelf(places.folder, seal, model_digest=model_digest)
        self.expert = self.shelf.current()
        self.watch = Watch()
        self.state = "idle"
        self.trained_on = 0 if self.expert is None or self.expert.tier != DELTA else self.expert.learned
        self.training_energy_j = 0.0

    @property
    @abstractmethod
    def count(self) -> int:
        """Corrections in memory."""

    @property
    def due(self) -> bool:
        """Whether there is enough that is new for a delta to be trained."""
        return self.count >= max(TRAIN_AFTER, (1.0 + TRAIN_GROWTH_FRACTION) * self.trained_on)

    def reload(self) -> None:
        """Look what is in service now: a training process may have promoted something."""
        self.expert = self.shelf.current()

    def rollback(self) -> None:
        """Go back to the version before."""
        self.expert = self.shelf.rollback()

    def forget(self) -> None:
        """Destroy the key, and with it everything."""
        destroy(self.folder)

    def note_training(self, count: int, energy_j: float) -> None:
        """A training on so many corrections ended, however."""
        self.trained_on = count
        self.training_energy_j += energy_j

    def asked(self, watch: Watch) -> None:
        """What is remembered of the last answers."""
        self.watch = replace(watch)


class Hand(Holding):
    """A user who corrects the labels of pictures.

    Args:
        base: The global expert.
        places: Where.
    """

    def __init__(self, base: Base, places: Places) -> None:
        super().__init__(places, model_digest=base.model_digest)
        self.base = base
        self.own: Looks | None = None
        self.head = InstantHead(base.prior)
        self.trial = Trial()

    @property
    def count(self) -> int:
        """See `Holding`."""
        return 0 if self.own is None else len(self.own)

    def kept(self) -> list[Correction]:
        """Corrections on disk that memory does not hold yet."""
        return [] if self.own is not None else self.corrections.all()

    def remember(self, own: Looks) -> None:
        """Take in what the global expert makes of corrections, and let the instant head learn them."""
        lacks_nc = residual(own.probabilities_nc, own.labels_n)
        for feature_f, lack_c in zip(own.features_nf, lacks_nc, strict=True):
            self.head.update(feature_f, lack_c)
        self.own = own if self.own is None else join([self.own, own])

    def consider(self) -> bool:
        """Judge the instant head; put it in service where it may answer. True where something changed.

        A delta in service stays, unless new corrections show it to be worse: it has seen more, and the next training
        learns those corrections too.
        """
        if self.expert is not None and self.expert.tier == DELTA:
            return self._retire()
        if self.own is None:
            return False
        verdict = judge_instant(self.base, self.head, self.own)
        if not verdict.promoted:
            return self._withdraw(verdict)
        self.expert = LocalExpert(
            version=1 if self.expert is None else self.expert.version + 1,
            tier=INSTANT,
            model_digest=self.base.model_digest,
            gate=verdict.gate,
            judgement=verdict.judgement,
            learned=self.count,
            residual_fc=self.head.weight_fc.copy(),
            scale=self.base.prior.scale,
            coverage_fraction=coverage(self.own.labels_n, len(self.base.labels)),
        )
        self.shelf.promote(self.expert)
        return True

    def tried(self, *, right: bool, global_right: bool) -> None:
        """A correction has told whether what is in service was right, and whether the global expert would have been."""
        if self.expert is not None:
            self.trial = self.trial.after(self.expert.version, right=right, global_right=global_right)

    def _retire(self) -> bool:
        if self.expert is None or self.trial.version != self.expert.version or not self.trial.failed:
            return False
        self.expert, self.trial = self.shelf.rollback(), Trial()
        return True

    def _withdraw(self, verdict: Verdict) -> bool:
        """Take an instant expert out of service that more corrections show to be worse than the global one."""
        if self.expert is None or verdict.judgement.local_fraction >= verdict.judgement.global_fraction:
            return False
        self.shelf.withdraw()
        self.expert = None
        return True

    def corrected(self, outputs: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32], bool]:
        """The answer of the instant tier from what the global expert told, and whether the local head gave it."""
        probabilities_c = outputs[graph.PROBABILITIES][0]
        expert = self.expert
        if expert is None or expert.residual_fc is None or not expert.gate.score(outputs[graph.SEEN])[0] > 0.0:
            return outputs[graph.PROBABILITIES], False
        if not open_to(outputs[graph.PROBABILITIES], expert.coverage_fraction)[0]:
            return outputs[graph.PROBABILITIES], False
        row_f = np.append(outputs[graph.FEATURES][0] / expert.scale, 1.0)
        raw_c = np.maximum(probabilities_c + row_f @ expert.residual_fc, 0.0)
        total = float(raw_c.sum())
        if not total > 0.0:
            return outputs[graph.PROBABILITIES], False
        return (raw_c / total).astype(np.float32)[None], True
