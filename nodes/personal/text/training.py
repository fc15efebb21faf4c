"""Trains, judges and promotes what of a language model is one user's own, in a process that may be killed anytime.

``python -m nodes.personal.text.training FOLDER MODEL MODELS_FOLDER`` reads the user's sealed corrections, and says on
stdout, in one line of JSON, how the new expert stands: figures only. Needs torch.

One correction in four judges a candidate that learned from the others; what is promoted then learns from all. Being
right is being the very text that the user wants. Shapes: n questions, g numbers that the gate sees.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal.base import Looks
from nodes.personal.delta import Delta
from nodes.personal.expert import LocalExpert, Shelf
from nodes.personal.judging import FEW_Z, calibrated, route, verdict
from nodes.personal.keeping import JUDGED_EVERY, Corrections
from nodes.personal.promotion import LEAST_CORRECTIONS, TOO_FEW, Taught, outdone, put_in_service
from nodes.personal.sealing import KeySeal, Seal, owner_key
from nodes.personal.text.decoder import DecoderFile, decoded, read_decoder
from nodes.personal.warp import IDENTITY
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.skills.checking import is_right

if TYPE_CHECKING:
    from nodes.personal.text.learning import Pair
    from nodes.zoo.language.network import Decoder

# Generic questions that the gate learns from and thresholds are set on: those of the catalogue, evenly taken.
GENERIC = 600

Rights = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """The global expert, and what everybody asks.

    Attributes:
        replay: Generic questions that the gate learns from.
        stored: Generic questions that only thresholds are set on; `stored_pairs` are their texts.
    """

    file: DecoderFile
    network: Decoder
    model_digest: str
    replay: Looks
    stored: Looks
    stored_pairs: tuple[Pair, ...]


def open_scene(model: Path, models: Path | None) -> Scene:
    """The global expert in torch, and generic questions from the catalogue with what it is known to make of them."""
    from nodes.personal.text.learning import Pair, network_of
    from nodes.zoo.language.texts import questions_from

    catalog = load_text_catalog(models)
    card = next(card for card in catalog.experts if catalog.model_path(card) == model)
    file = read_decoder(model.read_bytes())
    questions = questions_from(catalog.reference)
    picked = np.linspace(0, len(questions) - 1, min(GENERIC, len(questions))).astype(int)
    pairs = [Pair(questions[i].prompt, questions[i].answer) for i in picked]
    generic = seen_as(file, pairs, catalog.evidence_tensors(card)["correct"][picked].astype(np.bool_))
    replayed_n = np.arange(len(pairs)) % 2 == 0
    stored = tuple(pair for pair, replayed in zip(pairs, replayed_n, strict=True) if not replayed)
    return Scene(file, network_of(file), card.sha256, generic[replayed_n], generic[~replayed_n], stored)


def seen_as(file: DecoderFile, pairs: Sequence[Pair], right_n: Rights) -> Looks:
    """Questions as judging sees them: of two classes, wrong and right, all are to be right."""
    nothing = np.zeros((len(pairs), 0), np.float32)
    seen_ng = np.stack([file.seen(pair.question) for pair in pairs])
    probabilities_nc = np.stack([~right_n, right_n], axis=1).astype(np.float32)
    return Looks(nothing, np.ones(len(pairs), np.int64), probabilities_nc, nothing, seen_ng)


def promote(
    scene: Scene, shelf: Shelf, pairs: Sequence[Pair], serials_n: NDArray[np.int64], *, seed: int = 0
) -> dict[str, Any]:
    """Train and, where the result may answer, put it in service; how that went."""
    if len(pairs) < LEAST_CORRECTIONS:
        return dict(TOO_FEW)
    own = seen_as(scene.file, pairs, right(scene, None, pairs))
    taught = _teach(scene, pairs, own, serials_n % JUDGED_EVERY == JUDGED_EVERY - 1, seed=seed)

    def still_better(current: LocalExpert) -> bool:
        if current.delta is None:
            return False
        now_n = route(current.gate, own, right(scene, current.delta, pairs))
        return outdone(taught, now_n, taught.judged_n & (serials_n >= current.learned_until))

    return put_in_service(shelf, taught, serials_n, stays=still_better)


def right(scene: Scene, delta: Delta | None, pairs: Sequence[Pair]) -> Rights:
    """Where an expert writes what is wanted."""
    from nodes.personal.text.learning import answers

    arrays = None if delta is None else delta.arrays
    told = answers(scene.file, scene.network, arrays, [pair.question for pair in pairs])
    return np.array([is_right(given, pair.answer) for given, pair in zip(told, pairs, strict=True)], np.bool_)


def _teach(scene: Scene, pairs: Sequence[Pair], own: Looks, judges_n: Rights, *, seed: int) -> Taught:
    from nodes.personal.text.learning import Recipe, learn

    recipe = Recipe()

    def candidate(learned_n: Rights) -> Delta:
        lesson = [pair for pair, learned in zip(pairs, learned_n, strict=True) if learned]
        return Delta(learn(scene.file, scene.network, lesson, recipe=recipe, seed=seed), IDENTITY)

    tried = candidate(~judges_n)
    judges = [pair for pair, judge in zip(pairs, judges_n, strict=True) if judge]
    tried_gate = _gate(scene, own[~judges_n], right(scene, tried, scene.stored_pairs), seed=seed)
    right_n = route(tried_gate, own[judges_n], right(scene, tried, judges))
    final = candidate(np.ones(len(pairs), np.bool_))
    stored_n = right(scene, final, scene.stored_pairs)
    gate = _gate(scene, own, stored_n, seed=seed)
    stands = verdict(scene, gate, judged=own[judges_n], right_n=right_n, stored_n=stored_n, z=FEW_Z)
    return Taught(final, stands, judges_n, 2 * recipe.samples)


def _gate(scene: Scene, own: Looks, stored_n: Rights, *, seed: int) -> gates.Gate:
    return calibrated(scene, gates.discriminate(own.seen_ng, scene.replay.seen_ng, seed=seed), stored_n)


def run(folder: Path, scene: Scene, seal: Seal, *, seed: int = 0) -> dict[str, Any]:
    """Train for one user's folder."""
    from nodes.personal.text.learning import Pair

    kept = Corrections(folder, seal).all()
    if not kept:
        return dict(TOO_FEW)
    pairs = [Pair(decoded(one.image), one.answer) for one in kept]
    shelf = Shelf(folder, seal, model_digest=scene.model_digest)
    return promote(scene, shelf, pairs, np.array([one.serial for one in kept]), seed=seed)


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    folder, model, models = arguments
    started_s = time.process_time()
    scene = open_scene(Path(model), Path(models) if models else None)
    told = run(Path(folder), scene, KeySeal(owner_key(Path(folder))))
    print(json.dumps({**told, "cpu_s": time.process_time() - started_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
