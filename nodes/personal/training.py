"""Trains, judges and promotes one user's delta, in a process of its own that may be killed at any moment.

``python -m nodes.personal.training FOLDER MODEL SIDE MODELS_FOLDER`` reads the user's sealed corrections, and says on
stdout, in one line of JSON, how the new expert stands: figures only. Needs torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal.base import Base, Looks, looks, prior, split
from nodes.personal.delta import Delta, fold
from nodes.personal.expert import DELTA, INSTANT, LocalExpert, Shelf
from nodes.personal.instant import InstantHead, open_to, residual
from nodes.personal.judging import Verdict, beats, judge
from nodes.personal.keeping import Corrections
from nodes.personal.network import Weights
from nodes.personal.onnx_file import read_network
from nodes.personal.sealing import KeySeal, Seal, owner_key

# Fewer corrections that judge would decide by luck; until then the instant tier reacts.
LEAST_JUDGES = 10


def train(base: Base, own: Looks, judges_n: NDArray[np.bool_], *, seed: int) -> tuple[Delta, Verdict]:
    """A delta from the corrections that do not judge, and how it stands on those that do."""
    from nodes.personal.learning import Recipe, Samples, learn

    mine, judged = own[~judges_n], own[judges_n]
    corrections = Samples(own.images, own.labels_n)
    replay = Samples(base.replay.images, base.replay.labels_n)
    recipe = Recipe()
    learned = learn(base.network, base.weights, corrections, replay, judges_n=judges_n, recipe=recipe, seed=seed)
    local = fold(base.network, base.weights, learned)
    gate = gates.discriminate(mine.seen_ng, base.replay.seen_ng, seed=seed)
    verdict = judge(
        base, gate, judged=judged, local_n=right(base, local, judged), stored_n=right(base, local, base.stored)
    )
    return learned, verdict


def right(base: Base, weights: Weights, samples: Looks) -> NDArray[np.bool_]:
    """Where an expert with these weights is right."""
    from nodes.personal.learning import answer, as_tensors, stem

    tensors = as_tensors(weights)
    logits_nc, _ = answer(base.network, tensors, stem(base.network, tensors, samples.images))
    right_n: NDArray[np.bool_] = logits_nc.argmax(axis=1) == samples.labels_n
    return right_n


def promote(base: Base, shelf: Shelf, own: Looks, judges_n: NDArray[np.bool_], *, seed: int = 0) -> dict[str, Any]:
    """Train and, where the result may answer, put it in service; how that went."""
    if judges_n.sum() < LEAST_JUDGES:
        return {"promoted": False, "why": "too few corrections"}
    from nodes.personal.learning import Recipe

    learned, verdict = train(base, own, judges_n, seed=seed)
    current = shelf.current()
    told = {"judged": verdict.judgement.judged, "local": verdict.judgement.local_fraction}
    recipe = Recipe()
    told["samples"] = recipe.steps * (recipe.batch + recipe.replay_batch)
    if not verdict.promoted:
        return {"promoted": False, "why": "not better than the global expert on judged corrections", **told}
    if current is not None and _still_better(base, current, own, judges_n, verdict):
        return {"promoted": False, "why": "not as good as the expert in service", **told}
    version = (0 if current is None else current.version) + 1
    shelf.promote(
        LocalExpert(
            version=version,
            tier=DELTA,
            model_digest=base.model_digest,
            gate=verdict.gate,
            judgement=verdict.judgement,
            learned=int((~judges_n).sum()),
            delta=learned,
        )
    )
    return {"promoted": True, "version": version, **told}


def _still_better(base: Base, current: LocalExpert, own: Looks, judges_n: NDArray[np.bool_], new: Verdict) -> bool:
    """Whether the expert in service is better than the new one on the corrections that judge."""
    judged = own[judges_n]
    if current.tier == DELTA and current.delta is not None:
        local_n = right(base, fold(base.network, base.weights, current.delta), judged)
    elif current.tier == INSTANT:
        # What the instant head learned of them must not count: it is made again without them.
        head = InstantHead(base.prior)
        mine = own[~judges_n]
        for feature_f, lack_c in zip(mine.features_nf, residual(mine.probabilities_nc, mine.labels_n), strict=True):
            head.update(feature_f, lack_c)
        scores_nc = head.correct_many(judged.features_nf, judged.probabilities_nc)
        open_n = open_to(judged.probabilities_nc, current.coverage_fraction)
        local_n = np.where(open_n, scores_nc.argmax(axis=1) == judged.labels_n, judged.right_n)
    else:
        return False
    now_n = np.where(current.gate.score(judged.seen_ng) > 0.0, local_n, judged.right_n)
    return beats(now_n, new.right_n)


def open_base(model: Path, models: Path | None, side: int) -> Base:
    """The global expert, looked at with torch."""
    from nodes.zoo.catalog import load_catalog

    catalog = load_catalog(models)
    network, weights = read_network(model.read_bytes(), side)
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
        return {"promoted": False, "why": "too few corrections"}
    images = np.concatenate([one.image for one in corrections])
    labels_n = np.array([one.label for one in corrections])
    own = _look(base.network, base.weights, images, labels_n)
    judges_n = np.array([one.judges for one in corrections])
    shelf = Shelf(folder, seal, model_digest=base.model_digest)
    return promote(base, shelf, own, judges_n, seed=seed)


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    folder, model, side, models = arguments
    os.nice(15)
    started_s = time.process_time()
    base = open_base(Path(model), Path(models) if models else None, int(side))
    told = run(Path(folder), base, KeySeal(owner_key(Path(folder))))
    print(json.dumps({**told, "cpu_s": time.process_time() - started_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
