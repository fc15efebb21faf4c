"""What a language model learns of how one user wants their answers: ``make bench NAME=personal_texts``. Needs torch.

The smallest decoder that ships, a user who asks in words of their own and wants dates in a format of their own, three
users (other dates) per format: share of held-out questions answered in that very format by the global expert and by
what is served, and what 400 questions lose that no expert, gate or threshold has seen.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nodes.personal.expert import LocalExpert, Shelf
from nodes.personal.judging import route
from nodes.personal.sealing import KeySeal, owner_key
from nodes.personal.text import training
from nodes.zoo.language.catalog import TEXT_FOLDER, load_text_catalog
from nodes.zoo.skills.dates import DAYS_OF_MONTH, MONTHS
from tests.bench.harness import Bar, Row, main

if TYPE_CHECKING:
    from nodes.personal.text.learning import Pair

EXPERT = "skills-dates"
USERS = 3
CORRECTIONS, HELD, GENERIC = 60, 100, 400
FORMATS: Mapping[str, Callable[[str, int], str]] = {
    "slash": lambda month, day: f"{month}/{day}",
    "day_first": lambda month, day: f"{day} {month}",
}
BARS = (
    Bar("gain.slash", 0.3, ">="),
    Bar("generic_drop.slash", 0.001, "<="),
    Bar("generic_drop.day_first", 0.001, "<="),
)


def dates(count: int, *, seed: int, wanted: Callable[[str, int], str]) -> list[Pair]:
    """Questions in the user's words, with the answers that they want."""
    from nodes.personal.text.learning import Pair

    rng, found = random.Random(seed), []
    for _ in range(count):
        month, n = rng.choice(MONTHS), rng.randint(1, 9)
        day = rng.randint(1, DAYS_OF_MONTH[month] - n)
        found.append(Pair(f"Please say my date {n} days after {month} {day}.", wanted(month, day + n)))
    return found


def run() -> list[Row]:
    """Rows of all formats."""
    if find_spec("torch") is None:
        print("not run: training needs torch (extra personalize)")
        raise SystemExit(77)
    scene = training.open_scene(TEXT_FOLDER.resolve() / f"{EXPERT}.onnx", None)
    return [row for name in FORMATS for row in _rows(scene, name)]


def _rows(scene: training.Scene, name: str) -> list[Row]:
    users = [_user(scene, FORMATS[name], seed) for seed in range(USERS)]
    before, after, drop, cpu_s, promoted = np.array(users).T
    sizes: dict[str, object] = {"users": USERS, "corrections": CORRECTIONS, "held": HELD, "expert": EXPERT}
    return [
        Row(f"global.{name}", float(before.mean()), "fraction", sizes),
        Row(f"served.{name}", float(after.mean()), "fraction", {**sizes, "each": [round(one, 3) for one in after]}),
        Row(f"gain.{name}", float((after - before).mean()), "fraction", sizes),
        Row(f"generic_drop.{name}", float(drop.mean()), "fraction", {**sizes, "generic": GENERIC}),
        Row(f"cpu_s.{name}", float(cpu_s.mean()), "s", sizes),
        Row(f"promoted.{name}", float(promoted.mean()), "fraction", sizes),
    ]


def _user(
    scene: training.Scene, wanted: Callable[[str, int], str], seed: int
) -> tuple[float, float, float, float, float]:
    """Right before and after, generic loss, CPU seconds of the training, and whether anything was promoted."""
    own, held = (dates(count, seed=seed + at, wanted=wanted) for count, at in ((CORRECTIONS, 100), (HELD, 200)))
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder), KeySeal(owner_key(Path(folder))), model_digest=scene.model_digest)
        started_s = time.process_time()
        training.promote(scene, shelf, own, np.arange(len(own)), seed=seed)
        cpu_s = time.process_time() - started_s
        expert = shelf.current()
    before, after = _served(scene, expert, held)
    generic_before, generic_after = _served(scene, expert, _generic())
    return before, after, generic_before - generic_after, cpu_s, float(expert is not None)


def _generic() -> list[Pair]:
    from nodes.personal.text.learning import Pair

    return [Pair(one.prompt, one.answer) for one in load_text_catalog().test[:GENERIC]]


def _served(scene: training.Scene, expert: LocalExpert | None, pairs: list[Pair]) -> tuple[float, float]:
    """Right answers of the global expert, and of gate and both together."""
    plain_n = training.right(scene, None, pairs)
    if expert is None:
        return float(plain_n.mean()), float(plain_n.mean())
    looks = training.seen_as(scene.file, pairs, plain_n)
    served_n = route(expert.gate, looks, training.right(scene, expert.delta, pairs))
    return float(plain_n.mean()), float(served_n.mean())


if __name__ == "__main__":
    main(stem="personal_texts", run=run, bars=BARS)
