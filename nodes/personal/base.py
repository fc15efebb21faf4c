"""A global expert with all that its users' local experts start from. Numpy only.

Shapes: n samples, f features, c classes, g numbers that the gate sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nodes.personal import graph, instant
from nodes.personal.network import Floats, Network, Weights

# Every third stored sample is replayed when something is learned; thresholds are set on the others.
REPLAYED_EVERY = 3


@dataclass(frozen=True, eq=False)
class Looks:
    """Samples, and what the global expert makes of them.

    Attributes:
        images: (n, h, w).
        labels_n: int64 (n,).
        probabilities_nc: Its answers.
        features_nf: What comes into its last layer.
        seen_ng: What the gate sees.
    """

    images: Floats
    labels_n: NDArray[np.int64]
    probabilities_nc: Floats
    features_nf: Floats
    seen_ng: Floats

    def __len__(self) -> int:
        return len(self.labels_n)

    @property
    def right_n(self) -> NDArray[np.bool_]:
        """Where the global expert is right."""
        right_n: NDArray[np.bool_] = self.probabilities_nc.argmax(axis=1) == self.labels_n
        return right_n

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Looks:
        return Looks(
            self.images[rows],
            self.labels_n[rows],
            self.probabilities_nc[rows],
            self.features_nf[rows],
            self.seen_ng[rows],
        )


def looks(images: NDArray[Any], labels_n: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> Looks:
    """From the outputs of `graph.observed`."""
    return Looks(
        images.astype(np.float32),
        labels_n.astype(np.int64),
        outputs[graph.PROBABILITIES],
        outputs[graph.FEATURES],
        outputs[graph.SEEN],
    )


def join(parts: Sequence[Looks]) -> Looks:
    """One after the other; at least one part."""
    return Looks(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels_n for part in parts]),
        np.concatenate([part.probabilities_nc for part in parts]),
        np.concatenate([part.features_nf for part in parts]),
        np.concatenate([part.seen_ng for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Base:
    """What all users of a global expert share.

    Attributes:
        model_digest: Of its file.
        labels: Of its task.
        replay: Stored generic samples that may be learned from.
        stored: Stored generic samples that only thresholds are set on.
        prior: What every instant head starts from.
    """

    expert: str
    task: str
    model_digest: str
    labels: tuple[str, ...]
    network: Network
    weights: Weights
    replay: Looks
    stored: Looks
    prior: instant.Prior


class HasStored(Protocol):
    """Whatever an expert is judged for: pictures or texts."""

    @property
    def stored(self) -> Looks:
        """See `Base`."""
        ...


def split(generic: Looks) -> tuple[Looks, Looks]:
    """What is replayed, and what thresholds are set on."""
    replayed_n = np.arange(len(generic)) % REPLAYED_EVERY == 0
    return generic[replayed_n], generic[~replayed_n]


def prior(replay: Looks) -> instant.Prior:
    """The prior of instant heads."""
    return instant.prior(replay.features_nf, replay.probabilities_nc, replay.labels_n)
