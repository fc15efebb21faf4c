"""What the mission claims of a running fleet, each claim an assertion that its controls make fail."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.demo.writer import Writer
from nodes.zoo.catalog import load_catalog
from orchestrator.client import Answer, Budget, Client
from orchestrator.client.types import FleetStatus
from tests.system.mission_house import PERSONAL, PRUNED, House

TASK = "digits"
# Milliseconds are judged by other tests, on machines that are not shared.
PATIENCE_MS = 10_000.0
AMPLE = Budget(max_energy_j=1.0, max_latency_ms=PATIENCE_MS)
# A hand that the personal expert misreads: bars through sevens, mirrored fours.
WRITER = Writer(slant=0.5, rotation=-0.2, width=0.8, habits={7: "bar", 4: "mirror"})
# Two corrections are the least that a user's expert is judged by.
MOST_CORRECTIONS = 8


@dataclass(frozen=True)
class Digits:
    """Pictures, shape (n, 8, 8), and what they are."""

    images_n: NDArray[np.float32]
    labels_n: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels_n)


def held_out(rows: slice) -> Digits:
    """Digits that no expert has seen."""
    digits = load_catalog().held_out
    return Digits(digits.inputs[rows].astype(np.float32), tuple(str(label) for label in digits.labels_n[rows]))


def written(label: str) -> Digits:
    """The same digits in the writer's hand, of one label."""
    digits = load_catalog().held_out
    images = WRITER.write(digits.inputs, digits.labels_n.astype(np.int64)).astype(np.float32)
    rows = np.flatnonzero(digits.labels_n == int(label))
    return Digits(images[rows], (label,) * len(rows))


def ask(client: Client, digits: Digits, budget: Budget | None = None, *, expert: str | None = None) -> list[Answer]:
    """One query after the other."""
    return [client.infer(digits.images_n[n : n + 1], budget=budget, expert=expert) for n in range(len(digits))]


def accuracy(answers: Sequence[Answer], digits: Digits) -> float:
    """Share of right answers."""
    return float(np.mean([answer.label == label for answer, label in zip(answers, digits.labels_n, strict=True)]))


def mean_j(answers: Sequence[Answer]) -> float:
    """Joules of an answer on the average."""
    return float(np.mean([answer.energy.energy_j for answer in answers]))


# ---- limits from traffic


def export_traffic(client: Client, digits: Digits, folder: Path) -> tuple[Path, Path, list[Answer]]:
    """What each expert answers as a table, and what each arm promises, as `edgewise budget tune` reads them."""
    experts = sorted({arm.expert for node in client.status().nodes for arm in node.arms})
    told = {expert: ask(client, digits, AMPLE, expert=expert) for expert in experts}
    table, arms = folder / "traffic.csv", folder / "arms.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("prompt_id", "prompt", "task", "model", "quality"))
        for expert, answers in told.items():
            for n, answer in enumerate(answers):
                rows.writerow((n, f"digit {n}", TASK, expert, float(answer.label == digits.labels_n[n])))
    with arms.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("model", "node", "ms_base", "ms_per_output_token", "j_base", "j_per_output_token"))
        # The promised joules, since limits hold for promises; patience in place of this shared machine's milliseconds.
        for node in client.status().nodes:
            rows.writerows((arm.expert, node.node, PATIENCE_MS, 0, arm.bound_energy_j, 0) for arm in node.arms)
    return table, arms, [answer for answers in told.values() for answer in answers]


def tune(house: House, table: Path, arms: Path, *, min_quality: float) -> dict[str, float]:
    """The point that `edgewise budget tune` picked and wrote into the gateway's configuration."""
    files = ("--table", str(table), "--arms", str(arms), "--config", str(house.config))
    said = house.said("budget", "tune", *files, "--task", TASK, "--min-quality", str(min_quality), "-o", "json")
    (point,) = json.loads(said)
    return dict(point)


# ---- the claims


def the_plan_is_certified(status: FleetStatus) -> None:
    """The task's plan in force carries a proof without a gap."""
    (task,) = status.tasks
    told = f"certificate {task.certificate.status}, gap {task.certificate.gap}"
    assert (task.certificate.status, task.certificate.gap) == ("optimal", 0.0), told
    assert task.active_arms


def pruned_arms_serve_for_fewer_joules(client: Client, digits: Digits) -> list[Answer]:
    """Pruned arms are in the plan, and answer for the fewer joules the more they prune."""
    (task,) = client.status().tasks
    active = {arm.partition(":")[0] for arm in task.active_arms}
    assert active.issuperset(PRUNED), f"no pruned arm in the plan: {sorted(active)}"
    by_expert = [ask(client, digits, AMPLE, expert=expert) for expert in PRUNED]
    dense_j, some_j, most_j = (mean_j(answers) for answers in by_expert)
    assert most_j < some_j < dense_j
    assert all(":mass-" in answer.routing.attempts[0].arm for answer in by_expert[1] + by_expert[2])
    return [answer for answers in by_expert for answer in answers]


@dataclass(frozen=True)
class Correction:
    """What one correction did: all answers to the same picture.

    Args:
        right: What it really is.
        before: The user's answer before it.
        after: The user's answer after it.
        others: Of another user and of nobody, before and after.
        answers: All that was asked on the way.
    """

    right: str
    before: Answer
    after: Answer
    others: tuple[tuple[Answer, Answer], ...]
    answers: tuple[Answer, ...]


def correct_until_it_takes(client: Client, user: str, other: str, digits: Digits) -> Correction:
    """Correct wrong answers one by one, until one correction changes the user's answer to that very picture."""
    asked: list[Answer] = []

    def see(picture: NDArray[np.float32], who: str | None) -> Answer:
        asked.append(client.infer(picture, budget=AMPLE, expert=PERSONAL, user=who))
        return asked[-1]

    corrections = 0
    for n, right in enumerate(digits.labels_n):
        picture = digits.images_n[n : n + 1]
        others_before = (see(picture, other), see(picture, None))
        before = see(picture, user)
        if before.label == right:
            continue
        client.correct(before.request_id, right)
        corrections += 1
        after = see(picture, user)
        if after.label != before.label:
            pairs = zip(others_before, (see(picture, other), see(picture, None)), strict=True)
            return Correction(right, before, after, tuple(pairs), tuple(asked))
        assert corrections < MOST_CORRECTIONS, f"{corrections} corrections changed nothing"
    raise AssertionError("no picture whose answer a correction changed")


def one_correction_changes_one_user(found: Correction) -> None:
    """The user's answer is right now, and everybody else's is what it was."""
    assert found.before.label != found.right
    assert found.after.label == found.right
    for before, after in found.others:
        assert (after.label, after.routing.overlay) == (before.label, "")
        assert _same(before.outputs, after.outputs)


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in (*one, *other))
