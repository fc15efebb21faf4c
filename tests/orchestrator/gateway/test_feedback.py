"""Feedback to a live gateway: what is written down, what never is, and heads that are trained from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays
from orchestrator.cli.main import run
from orchestrator.client import AsyncClient, Message
from orchestrator.config import Feedback
from orchestrator.outcomes import FILE
from orchestrator.wire import decode_tensor
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import probabilities, speaks
from tests.fakes.live import live_gateway
from tests.fakes.turn import Behaviour, Turn
from tests.optimizer.gate.needed import needs_native

DIGITS = Path(__file__).parents[3] / "nodes" / "zoo" / "digits"
KEEPING = Feedback(features=True)
# Two experts, each of which knows half of the digits.
LOW, HIGH = FakeArm("low", energy_j=0.01), FakeArm("high", energy_j=0.01)
PROMPT = "the tabby cat is called Whiskers and lives at 17 Elm Street"


def digits(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Real pictures and their labels, in random order."""
    arrays = read_arrays(DIGITS / "reference.npz")
    rows = np.random.default_rng(0).permutation(len(arrays["labels"]))[:count]
    return arrays["inputs"][rows].astype(np.float32), arrays["labels"][rows].astype(np.int64)


def halves(pictures: NDArray[np.float32], labels: NDArray[np.int64]) -> Behaviour:
    """Each expert is right about its half of the digits and wrong about the other."""
    label_of = {picture.tobytes(): int(label) for picture, label in zip(pictures, labels, strict=True)}

    async def behave(turn: Turn) -> None:
        picture = decode_tensor(turn.work.tensors.inputs[0], "inputs")
        label = label_of[picture.astype(np.float32).tobytes()]
        knows = (label < 5) == (turn.arm.expert == "low")
        turn.done(probabilities(label if knows else (label + 1) % 10))

    return behave


def lines(folder: Path) -> list[dict[str, Any]]:
    """What was written down."""
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def everything(folder: Path) -> str:
    """All that a gateway left on the disk."""
    return "".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


async def rated(client: AsyncClient, pictures: NDArray[np.float32], labels: NDArray[np.int64], name: str) -> None:
    """Every picture is answered by one of the two in turn, and the answer is rated."""
    for q, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        answer = await client.infer(picture[None], expert=("low", "high")[q % 2], request_id=f"{name}-{q}")
        await client.feedback(f"{name}-{q}", float(answer.label == str(label)))


async def test_heads_from_feedback_beat_the_mean_on_fresh_digits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures, labels = digits(450)
    state, later = tmp_path / "state", tmp_path / "later"
    for folder, rows in ((state, slice(0, 300)), (later, slice(300, 450))):
        async with (
            live_gateway(folder, feedback=KEEPING) as live,
            live.node(arms=[LOW, HIGH], behaviour=halves(pictures, labels)),
            AsyncClient(live.address) as client,
        ):
            await rated(client, pictures[rows], labels[rows], folder.name)
    gate = tmp_path / "gate.npz"
    assert run(["gate", "train", "--feedback", str(state), "--save", str(gate)]) == 0
    capfd.readouterr()
    assert run(["gate", "eval", "--gate", str(gate), "--feedback", str(later), "-o", "json"]) == 0
    found = {row["model"]: row for row in json.loads(capfd.readouterr().out)}
    assert set(found) == {"low", "high"}
    for row in found.values():
        assert row["squared_error"] < 0.8 * row["squared_error_of_mean"]
    # Nothing of what it was trained on counts.
    assert run(["gate", "eval", "--gate", str(gate), "--feedback", str(state)]) == 2
    no_pixels(lines(state), pictures)


def no_pixels(rows: list[dict[str, Any]], pictures: NDArray[np.float32]) -> None:
    """No run of a picture's numbers stands in a line, and a line has fewer numbers than a picture."""
    for row, picture in zip(rows, pictures, strict=False):
        kept = [value for value in row.values() if isinstance(value, list) and value and isinstance(value[0], float)]
        assert [len(value) for value in kept] == [37]
        inked = np.unique(picture[picture > 0.0].round(4))
        assert len(set(inked.tolist()) & set(kept[0])) < 0.5 * len(inked) + 2


async def test_features_are_kept_only_if_the_operator_says_so(tmp_path: Path) -> None:
    pictures, labels = digits(4)
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=[LOW, HIGH], behaviour=halves(pictures, labels)),
        AsyncClient(live.address) as client,
    ):
        await rated(client, pictures, labels, "r")
        await client.feedback("r-0", 0.0)
    found = lines(tmp_path)
    keys = {"request_id", "at_unix_s", "task", "expert", "arms", "alone", "quality"}
    assert [set(row) for row in found] == [keys] * 4
    assert [row["expert"] for row in found] == ["low", "high", "low", "high"]
    assert all(row["alone"] and row["task"] == "digits" for row in found)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


@needs_native
async def test_no_word_of_a_prompt_is_kept(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, feedback=KEEPING) as live,
        live.node(arms=[FakeArm("speaker", task="chat")], behaviour=speaks("Meow")),
        AsyncClient(live.address) as client,
    ):
        async for _ in client.generate([Message("user", PROMPT)], request_id="r1"):
            pass
        await client.feedback("r1", 0.7)
    (row,) = lines(tmp_path)
    assert (row["expert"], row["quality"], len(row["structure"])) == ("speaker", 0.7, 47)
    assert row["buckets"] == sorted(row["buckets"])
    kept = everything(tmp_path).lower()
    assert not [word for word in PROMPT.lower().split() if len(word) > 3 and word in kept]
