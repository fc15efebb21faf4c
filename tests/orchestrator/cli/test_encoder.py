"""`--encoder` and `--tokenizer` of `gate train`, `gate eval` and `eval`: they are really used, and told apart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from orchestrator.cli.main import run
from tests.fakes.encoders import table_rows, text_encoder, token_encoder, tokenizer
from tests.optimizer.gate.needed import needs_native
from tests.orchestrator.study.test_tables import write_arms, write_table

pytestmark = needs_native

COUNT = 400


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def edgewise(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    for name in [name for name in os.environ if name.startswith("EDGEWISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def call(*arguments: str | Path) -> Ended:
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return call


class Files(NamedTuple):
    """Prompts to train on and to judge with, and encoders."""

    old: Path
    new: Path
    tokens: tuple[str | Path, ...]
    texts: tuple[str | Path, ...]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    rows = table_rows(COUNT)
    old = write_table(tmp_path / "old", [row for row in rows if int(row["prompt_id"][1:]) % 4])
    new = write_table(tmp_path / "new", [row for row in rows if int(row["prompt_id"][1:]) % 4 == 0])
    cut = tokenizer(tmp_path / "tokenizer.json", COUNT)
    tokens = ("--encoder", token_encoder(tmp_path / "tokens.onnx", COUNT), "--tokenizer", cut)
    return Files(old, new, tokens, ("--encoder", text_encoder(tmp_path / "texts.onnx", COUNT)))


def judged(edgewise: Call, files: Files, *options: Any) -> float:
    """Squared error of fresh prompts as a share of that of the models' means."""
    gate = files.old.with_name("gate.npz")
    trained = edgewise("gate", "train", "--table", files.old, "--save", gate, *options)
    assert trained.code == 0, trained.err
    ended = edgewise("gate", "eval", "--gate", gate, "--table", files.new, "-o", "json", *options)
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)
    return float(np.mean([row["squared_error"] / row["squared_error_of_mean"] for row in rows]))


def test_the_encoder_tells_what_ngrams_do_not(edgewise: Call, files: Files) -> None:
    assert judged(edgewise, files) > 0.95
    assert judged(edgewise, files, *files.tokens) < 0.4
    assert judged(edgewise, files, *files.texts) < 0.4


def test_eval_earns_by_the_encoder(edgewise: Call, files: Files, tmp_path: Path) -> None:
    arms = write_arms(tmp_path, "one,n,0,1,0,0.01,1", "two,n,0,1,0,0.0101,1")
    best = []
    for options in ((), files.texts):
        ended = edgewise("eval", "--table", files.old, "--arms", arms, "-o", "json", *options)
        assert ended.code == 0, ended.err
        rows = json.loads(ended.out)["rows"]
        best.append(max(row["quality"] for row in rows if row["policy"] == "edgewise"))
    assert best[0] < 0.6
    assert best[1] > 0.85


def test_plans_and_limits_look_at_the_encoder_too(edgewise: Call, files: Files, tmp_path: Path) -> None:
    arms = write_arms(tmp_path, "one,n,0,1,0,0.01,1", "two,n,0,1,0,0.0101,1")

    def quality(options: tuple[Path | str, ...], *command: str) -> float:
        ended = edgewise(*command, "--table", files.old, "--arms", arms, "-o", "json", *options)
        assert ended.code == 0, ended.err
        told = json.loads(ended.out)
        return float(max(point["quality"] for point in told) if isinstance(told, list) else told["quality_fraction"])

    plan, better_plan = (quality(options, "plan", "--mean-energy", "1J") for options in ((), files.texts))
    sweep, better_sweep = (quality(options, "budget", "sweep") for options in ((), files.texts))
    assert better_plan > plan + 0.1
    assert sweep < 0.6
    assert better_sweep > 0.85


def test_a_gate_goes_with_its_encoder_and_no_other(edgewise: Call, files: Files, tmp_path: Path) -> None:
    gate = tmp_path / "gate.npz"
    assert edgewise("gate", "train", "--table", files.old, "--save", gate, *files.tokens).code == 0
    other = token_encoder(tmp_path / "other.onnx", COUNT + 1)
    cut = tokenizer(tmp_path / "other.json", COUNT + 1)
    cases = {
        (): "it was trained with a sentence encoder",
        ("--encoder", other, *files.tokens[2:]): "it was trained with another encoder",
        (*files.tokens[:3], cut): "it was trained with another tokenizer",
        files.texts: "it was trained with another encoder",
    }
    for options, told in cases.items():
        ended = edgewise("gate", "eval", "--gate", gate, "--table", files.new, *options)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
        assert told in ended.err
    grown = edgewise("gate", "train", "--table", files.new, "--save", gate, "--add-to", gate, *files.texts)
    assert grown.code == 2
    assert edgewise("gate", "train", "--table", files.old, "--save", gate).code == 0
    refused = edgewise("gate", "eval", "--gate", gate, "--table", files.new, *files.tokens)
    assert (refused.code, "leave --encoder out" in refused.err) == (2, True)


def test_what_is_missing_has_its_exit_code(edgewise: Call, files: Files, tmp_path: Path) -> None:
    start = ("gate", "train", "--table", files.old, "--save", tmp_path / "gate.npz")
    assert edgewise(*start, "--encoder", tmp_path / "none.onnx").code == 4
    without = edgewise(*start, *files.tokens[:2])
    assert (without.code, "add --tokenizer tokenizer.json" in without.err) == (2, True)
    assert edgewise(*start, *files.tokens[2:]).code == 2
    beyond = edgewise(*start, "--encoder", token_encoder(tmp_path / "few.onnx", 8), *files.tokens[2:])
    assert (beyond.code, "the runtime failed" in beyond.err, beyond.err.count("\n")) == (8, True, 1)
