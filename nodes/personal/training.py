"""Trains, judges and promotes one user's delta, in a process of its own that may be killed at any moment.

``python -m nodes.personal.training FOLDER MODEL SIDE MODELS_FOLDER [shared]`` reads the user's sealed corrections, and
says on stdout, in one line of JSON, how the new expert stands: figures only. Needs torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.base import Base, Looks, looks, prior, split
from nodes.personal.delta import fold
from nodes.personal.expert import DELTA, INSTANT, LocalExpert, Shelf
from nodes.personal.judging import LENT_FROM, LENT_WINS, judge_instant, route, taught_head
from nodes.personal.keeping import JUDGED_EVERY, Corrections
from nodes.personal.network import Weights
from nodes.personal.onnx_file import read_network
from nodes.personal.promotion import LEAST_CORRECTIONS, TOO_FEW, Taught, outdone, put_in_service
from nodes.personal.sealing import KeySeal, Seal, owner_key
from nodes.personal.trainer import SHARED


def promote(base: Base, shelf: Shelf, own: Looks, serials_n: NDArray[np.int64], *, seed: int = 0) -> dict[str, Any]:
    """Train and, where the result may answer, put it in service; how that went.

    Args:
        serials_n: How many corrections came before each of these.
    """
    from nodes.personal.teaching import teach

    if len(own) < LEAST_CORRECTIONS:
        return dict(TOO_FEW)
    taught = teach(base, own, serials_n % JUDGED_EVERY, seed=seed)
    return put_in_service(
        shelf, taught, serials_n, stays=lambda current: still_better(base, current, own, serials_n, taught)
    )


def still_better(base: Base, current: LocalExpert, own: Looks, serials_n: NDArray[np.int64], taught: Taught) -> bool:
    """Whether the expert in service is better than the new one on judged corrections that neither learned."""
    from nodes.personal.teaching import right

    if current.tier == DELTA and current.delta is not None:
        fresh_n = taught.judged_n & (serials_n >= current.learned_until)
        local_n = right(base, fold(base.network, base.weights, current.delta), own)
        return outdone(taught, route(current.gate, own, local_n), fresh_n)
    if current.tier == INSTANT:
        # As it would be now, each correction left out of what judges it.
        now_n = judge_instant(base, taught_head(base, own), own).right_n
        return outdone(taught, now_n, taught.judged_n, lent=-LENT_WINS if len(own) >= LENT_FROM else 0)
    return False


def open_base(model: Path, models: Path | None, side: int, *, shared: bool = False) -> Base:
    """The global expert, looked at with torch.

    Args:
        shared: Whether its local experts are inputs of one graph.
    """
    from nodes.zoo.catalog import load_catalog

    catalog = load_catalog(models)
    network, weights = read_network(model.read_bytes(), side)
    network = replace(network, shared=shared)
    card = next(card for card in catalog.experts if catalog.model_path(card) == model)
    generic = _look(network, weights, catalog.reference.inputs, catalog.reference.labels_n)
    replay, stored = split(generic)
    labels = tuple(catalog.task.labels)
    return Base(card.name, card.task, card.sha256, labels, network, weights, replay, stored, prior(replay))


def _look(network: Any, weights: Weights, images: NDArray[Any], labels_n: NDArray[Any]) -> Looks:
    import torch

    from nodes.personal import graph
    from nodes.personal.learning import answer, as_tensors, gate_features, stem

    tensors = as_tensors(weights)
    stem_map = stem(network, tensors, images.astype(np.float32))
    logits_nc, features_nf = answer(network, tensors, stem_map)
    probabilities_nc = torch.softmax(torch.from_numpy(logits_nc), 1).numpy()
    seen_ng = gate_features(network, stem_map)
    outputs = {graph.PROBABILITIES: probabilities_nc, graph.FEATURES: features_nf, graph.SEEN: seen_ng}
    return looks(images, labels_n, outputs)


def run(folder: Path, base: Base, seal: Seal, *, seed: int = 0) -> dict[str, Any]:
    """Train for one user's folder."""
    corrections = Corrections(folder, seal).all()
    if not corrections:
        return dict(TOO_FEW)
    images = np.concatenate([one.image for one in corrections])
    labels_n = np.array([one.label for one in corrections])
    own = _look(base.network, base.weights, images, labels_n)
    serials_n = np.array([one.serial for one in corrections])
    shelf = Shelf(folder, seal, model_digest=base.model_digest)
    return promote(base, shelf, own, serials_n, seed=seed)


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    folder, model, side, models, *form = arguments
    started_s = time.process_time()
    base = open_base(Path(model), Path(models) if models else None, int(side), shared=SHARED in form)
    told = run(Path(folder), base, KeySeal(owner_key(Path(folder))))
    print(json.dumps({**told, "cpu_s": time.process_time() - started_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
