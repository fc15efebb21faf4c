"""`gate train|eval --feedback`: from lines of outcomes to heads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.gate.recorded import count_text, sketch_tensor
from orchestrator.cli.main import run
from orchestrator.outcomes import FILE, OLDER
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.toy import prompts, qualities

pytestmark = needs_native


def row(number: int, expert: str, quality: float, **more: Any) -> dict[str, Any]:
    made = {"request_id": f"r{number}", "task": "chat", "expert": expert, "alone": True, "quality": quality}
    return made | more


def text_rows(count: int, *, first: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts that adder and poet answered in turn."""
    texts, _, kinds = prompts(count, seed=seed)
    quality_of = qualities(kinds, seed=seed + 1)
    found = []
    for q, text in enumerate(texts):
        expert, counts = ("adder", "poet")[q % 2], count_text(text)
        features = {"buckets": counts.bucket_n.tolist(), "weights": counts.weight_n.tolist()}
        features["structure"] = counts.structure_s.tolist()
        found.append(row(first + q, expert, float(quality_of[expert][q]), **features))
    return found


def tensor_row(number: int) -> dict[str, Any]:
    sketch_f = sketch_tensor(np.random.default_rng(number).random(64))
    assert sketch_f is not None
    return row(number, "net", float(number % 2), task="digits", sketch=sketch_f.tolist())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_text_heads_from_a_folder_beat_the_mean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = text_rows(300)
    write(tmp_path / "state" / OLDER, rows[:100])
    write(tmp_path / "state" / FILE, rows[100:])
    later = write(tmp_path / "later.jsonl", text_rows(100, first=1000, seed=5))
    gate = tmp_path / "gate.npz"
    assert run(["gate", "train", "--feedback", str(tmp_path / "state"), "--save", str(gate)]) == 0
    capfd.readouterr()
    assert run(["gate", "eval", "--gate", str(gate), "--feedback", str(later), "-o", "json"]) == 0
    for found in json.loads(capfd.readouterr().out):
        assert found["squared_error"] < 0.5 * found["squared_error_of_mean"]


def test_only_answers_of_one_expert_count_and_broken_lines_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = text_rows(60)
    spoilt = [{**one, "alone": False, "quality": 0.0, "expert": "both"} for one in rows]
    broken = [{**rows[0], "quality": 7.0}, {**rows[0], "buckets": [99_999]}, {**rows[0], "weights": [1]}]
    path = write(tmp_path / "f.jsonl", [*rows, *spoilt, *broken, row(0, "adder", 1.0)])
    with path.open("a") as stream:
        stream.write('{"request_id": "cut o')
    assert run(["gate", "train", "--feedback", str(path), "--save", str(tmp_path / "g.npz"), "-o", "json"]) == 0
    ended = capfd.readouterr()
    assert [one["model"] for one in json.loads(ended.out)] == ["adder", "poet"]
    for told in ("4 of 125 lines", "60 answers of several experts", "1 outcomes without features"):
        assert told in ended.err


def test_tensors_and_texts_are_trained_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "f.jsonl", [*text_rows(40), *map(tensor_row, range(40))])
    start = ["gate", "train", "--feedback", str(path), "--save", str(tmp_path / "g.npz")]
    assert run(start) == 2
    assert "choose tasks of one kind with --task" in capfd.readouterr().err
    assert run([*start, "--task", "digits", "-o", "json"]) == 0
    (head,) = json.loads(capfd.readouterr().out)
    assert (head["model"], head["task"]) == ("net", "digits")
    judge = ["gate", "eval", "--gate", str(tmp_path / "g.npz")]
    assert run([*judge, "--feedback", str(path), "--task", "chat"]) == 2
    assert "the gate is not" in capfd.readouterr().err


def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, save = str(write(tmp_path / "f.jsonl", text_rows(20))), ["--save", str(tmp_path / "g.npz")]
    (tmp_path / "empty").mkdir()
    bare = str(write(tmp_path / "bare.jsonl", [row(0, "adder", 1.0)]))
    cases = [
        (["--feedback", str(tmp_path / "none")], 4, "no such file"),
        (["--feedback", str(tmp_path / "empty")], 4, "edgewise feedback"),
        (["--feedback", bare], 2, "feedback.features: true"),
        (["--feedback", path, "--task", "other"], 2, "none of 20 lines"),
        (["--feedback", path, "--table", path], 2, "one of --table and --feedback"),
        ([], 2, "one of --table and --feedback"),
        (["--feedback", path, "--encoder", path], 2, "--encoder needs texts"),
        (["--table", path, "--task", "chat"], 2, "--task belongs to --feedback"),
    ]
    for options, code, told in cases:
        assert run(["gate", "train", *save, *options]) == code
        err = capfd.readouterr().err
        assert told in err
        assert err.count("\n") == 1
