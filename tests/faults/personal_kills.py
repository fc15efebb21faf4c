"""kill -9 of what writes a user's expert: a process that promotes as fast as it can, and a real training.

``python -m tests.faults.personal_kills [--kills N]`` (part of ``make faults``). Never is a half expert found, never are
more than the last one lost. The control writes in place instead: it must be caught.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nodes.personal.expert import CURRENT, DELTA, Judgement, LocalExpert, Shelf, decode, encode
from nodes.personal.gate import closed
from nodes.personal.judging import verdict
from nodes.personal.keeping import Corrections
from nodes.personal.sealing import KeySeal, Unsealed, owner_key
from nodes.personal.text.decoder import encoded
from nodes.zoo.catalog import DEFAULT_FOLDER, load_catalog
from nodes.zoo.language.catalog import TEXT_FOLDER, load_text_catalog
from tests.faults.campaign import Line, conclude

KILLS = 100
PROMOTIONS_S = 0.3
# A big expert, so that a kill is likely to come while it is written.
PADDING = 100_000
CORRECTIONS = 48
TEXT_EXPERT, TEXT_STEPS, TEXT_GENERIC = "skills-dates", 4, 40


def _expert(version: int, digest: str) -> LocalExpert:
    rng = np.random.default_rng(version)
    residual_fc = rng.normal(size=(PADDING // 10, 10))
    gate = closed(30)
    return LocalExpert(version, "instant", digest, gate, Judgement(8, 0.5, 0.9), version, residual_fc=residual_fc)


def promote_forever(folder: Path, *, in_place: bool) -> None:
    """Promote version after version; say each on stdout when it is in service. Runs until killed."""
    seal = KeySeal(owner_key(folder))
    shelf = Shelf(folder, seal, model_digest="d")
    version = 0
    while True:
        version += 1
        expert = _expert(version, "d")
        if in_place:
            (folder / CURRENT).write_bytes(seal.close(encode(expert), CURRENT))
        else:
            shelf.promote(expert)
        print(version, flush=True)


def kill_promotion(folder: Path, chance: random.Random, *, in_place: bool = False) -> str:
    """What is found after one kill: "whole", "half" or "lost"."""
    arguments = [sys.executable, "-m", "tests.faults.personal_kills", "--promote", str(folder)]
    process = subprocess.Popen([*arguments, *(["--in-place"] if in_place else [])], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = int(process.stdout.readline())
    time.sleep(chance.uniform(0.0, PROMOTIONS_S))
    process.kill()
    rest, _ = process.communicate()
    told = max([told, *(int(line) for line in rest.split() if line.isdecimal())])
    try:
        found = decode(KeySeal(owner_key(folder)).open((folder / CURRENT).read_bytes(), CURRENT))
    except (Unsealed, FileNotFoundError):
        return "half"
    # A cut last number is one that was told in part; so one less is no loss.
    return "whole" if found.version >= told - 1 else "lost"


def taught_folder(folder: Path) -> Path:
    """A user with corrections of pictures."""
    kept = Corrections(folder, KeySeal(owner_key(folder)))
    held_out = load_catalog().held_out
    for image, label in list(zip(held_out.inputs, held_out.labels_n, strict=True))[:CORRECTIONS]:
        # A hand of its own: everything is turned on its side.
        kept.add(np.ascontiguousarray(np.rot90(image, axes=(0, 1)))[None], int(label))
    return folder


def taught_text_folder(folder: Path) -> Path:
    """A user with corrections of texts, who wants every answer with a point behind it."""
    kept = Corrections(folder, KeySeal(owner_key(folder)))
    for case in load_text_catalog().test[:CORRECTIONS]:
        kept.add(encoded(case.prompt), 0, f"{case.answer}.")
    return folder


def picture_training(folder: Path) -> list[str]:
    """The command that trains a user of pictures."""
    model = DEFAULT_FOLDER / load_catalog().expert("digits-lenet5").file
    return [sys.executable, "-m", "nodes.personal.training", str(folder), str(model), "8", ""]


def text_training(folder: Path) -> list[str]:
    """The command that trains a user of texts: shortly, and what it makes is promoted every time."""
    return [sys.executable, "-m", "tests.faults.personal_kills", "--train-text", str(folder)]


def train_text(folder: Path) -> None:
    """The real training of a text expert, with few steps and questions, whose verdict is always yes."""
    from nodes.personal.text import learning, training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "Recipe", partial(learning.Recipe, steps=TEXT_STEPS))
        patch.setattr(training, "GENERIC", TEXT_GENERIC)
        patch.setattr(training, "verdict", lambda *given, **named: replace(verdict(*given, **named), promoted=True))
        training.main([str(folder), str(TEXT_FOLDER.resolve() / f"{TEXT_EXPERT}.onnx"), ""])


def struck(command: list[str], after_s: float) -> float | None:
    """Kill a training after so long; seconds that it took where it had ended before."""
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
        return time.monotonic() - started_s
    process.kill()
    process.wait()
    return None


def found_after(folder: Path) -> str:
    """What is there after a kill: "whole" (old or new expert, all corrections), else what is not."""
    seal = KeySeal(owner_key(folder))
    kept = Corrections(folder, seal).all()
    if len(kept) < CORRECTIONS:
        return f"{CORRECTIONS - len(kept)} corrections lost"
    file = folder / CURRENT
    if file.exists():
        try:
            found = decode(seal.open(file.read_bytes(), CURRENT))
        except Unsealed:
            return "half"
        if found.tier != DELTA or found.delta is None:
            return "half"
    return "whole"


def campaign(kills: int) -> list[Line]:
    """All kinds, each `kills` times; trainings only where torch is."""
    chance, lines = random.Random(1), []
    for name, in_place in (("personal_kill_promotion", False), ("control_personal_in_place", True)):
        outcomes: Counter[str] = Counter()
        for _ in range(kills):
            with tempfile.TemporaryDirectory() as folder:
                outcomes[kill_promotion(Path(folder) / "user", chance, in_place=in_place)] += 1
        whole = outcomes == {"whole": kills}
        missed = (
            [f"{name}: it passes"] if in_place and whole else [f"{name}: {outcomes}"] if not (in_place or whole) else []
        )
        lines.append(Line(name, kills, {"outcomes": dict(outcomes)}, missed))
    if find_spec("torch") is None:
        print("not run: personal_kill_training needs torch (extra personalize)")
        return lines
    return [
        *lines,
        _trainings("personal_kill_training", taught_folder, picture_training, kills),
        _trainings("personal_kill_text_training", taught_text_folder, text_training, kills),
    ]


def _trainings(name: str, taught: Callable[[Path], Path], command: Callable[[Path], list[str]], kills: int) -> Line:
    """Kills of one user's trainings, one after the other, anywhere in a training or shortly behind it.

    A kill that comes too late is none: `too_late` counts them beside the others, and the next come sooner.
    """
    chance, outcomes, versions, too_late = random.Random(1), Counter[str](), set[bytes](), 0
    with tempfile.TemporaryDirectory() as folder:
        user = taught(Path(folder) / "user")
        started_s = time.monotonic()
        subprocess.run(command(user), check=True, stdout=subprocess.DEVNULL)
        longest_s = 1.2 * (time.monotonic() - started_s)
        while outcomes.total() < kills:
            took_s = struck(command(user), chance.uniform(0.0, longest_s))
            if took_s is None:
                outcomes[found_after(user)] += 1
            else:
                too_late, longest_s = too_late + 1, min(longest_s, 1.2 * took_s)
            versions.add((user / CURRENT).read_bytes() if (user / CURRENT).exists() else b"")
    missed = [] if outcomes == {"whole": kills} else [f"{name}: {outcomes}"]
    figures = {"outcomes": dict(outcomes), "versions": len(versions), "too_late": too_late}
    return Line(name, kills, figures, missed)


def main() -> None:
    """Run, record, judge; or be the process that is killed."""
    parser = argparse.ArgumentParser(description="kill -9 of promotions and trainings of users' own experts.")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--promote", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train-text", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-place", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.promote is not None:
        promote_forever(options.promote, in_place=options.in_place)
    if options.train_text is not None:
        train_text(options.train_text)
        return
    lines = campaign(options.kills)
    conclude(lines, keep=not options.no_record)


if __name__ == "__main__":
    main()
