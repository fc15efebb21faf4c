"""The command line against a fake gateway: outputs, errors on one line, exit codes, options before and after."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.main import run
from orchestrator.errors import CATALOGUE, ExitCode
from tests.orchestrator.fake_gateway import FakeGateway

COMMAND = [sys.executable, "-c", "from orchestrator.cli.main import main; main()"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Edgewise = Callable[..., Ended]


@pytest.fixture
def edgewise(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edgewise:
    """Run the command in this process, away from the user's own files and variables."""
    for name in [name for name in os.environ if name.startswith("EDGEWISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> Ended:
        code = run(arguments)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


@pytest.fixture
def digit(tmp_path: Path) -> str:
    path = tmp_path / "digit.npy"
    np.save(path, np.full((2, 8, 8), 16.0))
    return str(path)


def test_table_of_an_answer_says_where_the_joules_come_from(fake: FakeGateway, edgewise: Edgewise, digit: str) -> None:
    ended = edgewise("--gateway", fake.target, "infer", digit, "--max-energy", "5uJ", "--max-latency", "20ms")
    assert ended.code == 0, ended.err
    assert "2.1 µJ (modelled)" in ended.out
    assert "digits-mlp:onnx-fp32@orin-1 → digits-conv8:onnx-fp32@orin-1" in ended.out
    assert ended.err == ""
    asked = fake.gateway.asked[0]
    assert asked.budget.max_energy_j == pytest.approx(5e-6)
    assert asked.budget.max_latency_ms == 20.0
    assert asked.inputs[0].data == np.ones((1, 8, 8), dtype="<f4").tobytes()


def test_quiet_prints_the_label_alone(fake: FakeGateway, edgewise: Edgewise, digit: str) -> None:
    assert edgewise("--quiet", "infer", digit, "--gateway", fake.target).out == "4\n"


def test_all_options_of_infer_arrive(fake: FakeGateway, edgewise: Edgewise, digit: str) -> None:
    options = "--index 1 --expert digits-mlp --on-infeasible best-effort --profile eco --fusion vote"
    more = "--timeout 3s --request-id mine --max-energy 1nJ -o json"
    ended = edgewise("infer", digit, "--gateway", fake.target, *options.split(), *more.split())
    asked = fake.gateway.asked[0]
    assert (asked.expert, asked.budget.profile, asked.budget.on_infeasible, asked.fusion.mode) == (
        "digits-mlp",
        "eco",
        2,
        3,
    )
    assert fake.gateway.deadlines_s[0] == pytest.approx(3.0, abs=0.5)
    assert (ended.json["request_id"], ended.json["routing"]["budget_met"]) == ("mine", False)


READ_VERBS = [
    ("status",),
    ("node", "list"),
    ("budget", "show"),
    ("why", "r-1"),
    ("node", "drain", "orin-1"),
    ("node", "sleep", "orin-1"),
    ("node", "wake", "orin-1"),
    ("budget", "set", "--max-energy", "5mJ"),
    ("config", "show"),
    ("config", "show", "--effective"),
    ("doctor", "--skip-node"),
]


@pytest.mark.parametrize("verb", READ_VERBS, ids=" ".join)
def test_json_is_valid_and_alone_on_stdout(fake: FakeGateway, edgewise: Edgewise, verb: tuple[str, ...]) -> None:
    ended = edgewise("--gateway", fake.target, *verb, "-o", "json")
    assert ended.code == 0, ended.err
    assert ended.json
    assert "NaN" not in ended.out
    assert "Infinity" not in ended.out


@pytest.mark.parametrize("verb", READ_VERBS, ids=" ".join)
def test_tables_fit_a_hundred_columns(fake: FakeGateway, edgewise: Edgewise, verb: tuple[str, ...]) -> None:
    ended = edgewise("--gateway", fake.target, *verb)
    assert ended.code == 0, ended.err
    assert ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 100
    assert "\x1b" not in ended.out


def test_status_and_node_list_mark_simulated_devices(fake: FakeGateway, edgewise: Edgewise) -> None:
    for verb in (("status",), ("node", "list")):
        words = " ".join(edgewise(*verb, "--gateway", fake.target).out.split())
        assert words.count("(simulated)") == 2
        assert words.count("modelled profile:") == 2


def test_why_shows_candidates_constraint_and_both_figures(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise("--gateway", fake.target, "why", "r-1")
    for words in (
        "binding    energy",
        "chosen     digits-mlp → digits-conv8 (mixture)",
        "runner-up  digits-conv8",
        "combining  ",
        "plan plan-7: optimal (gap 0, 31 boxes explored)",
        "and 5 more: --all",
    ):
        assert words in ended.out
    assert re.search(r"energy +1\.8 µJ +≤ 3\.9 µJ +2\.1 µJ \(modelled\)", ended.out)
    assert re.search(r"time +2\.6 ms +≤ 6\.2 ms +2\.94 ms", ended.out)
    assert re.search(r"▶ +digits-mlp → digits-conv8 \(mixture\) +99\.1 %", ended.out)
    everything = edgewise("--gateway", fake.target, "why", "r-1", "--all").out
    assert everything.count("availability") == 12


def test_budgets_are_set_shown_and_reset(fake: FakeGateway, edgewise: Edgewise) -> None:
    set_ = ("budget", "set", "--gateway", fake.target, "--task", "digits")
    assert "5 mJ" in edgewise(*set_, "--max-energy", "5mJ", "--profile", "best").out
    assert re.search(
        r"digits +5 mJ +as default +as default +best +set", edgewise("budget", "show", "--gateway", fake.target).out
    )
    assert "config" in edgewise(*set_, "--reset").out
    assert edgewise(*set_).code == edgewise(*set_, "--reset", "--profile", "eco").code == 2


def test_long_run_budgets_are_set_and_told(fake: FakeGateway, edgewise: Edgewise) -> None:
    set_ = ("budget", "set", "--gateway", fake.target, "--task", "digits")
    told = edgewise(*set_, "--average-energy", "2mJ").out
    assert re.search(r"digits +2 mJ per request +a point is worth 2 mJ +1\.004 +250 mJ +infeasible: the", told)
    assert re.search(r"digits +5 W ", edgewise(*set_, "--average-power", "5W").out)
    assert edgewise(*set_, "--average-power", "5W", "--average-energy", "1J").code == 2
    assert edgewise(*set_, "--average-power", "5J").code == 2
    assert "long-run budget: 2 mJ per request averaged: a point is worth 2 mJ" in edgewise(
        "status", "--gateway", fake.target
    ).out.replace("\n", " ")
    assert "long run   2 mJ per request averaged" in edgewise("why", "r-1", "--gateway", fake.target).out


def test_what_one_more_joule_of_a_shared_budget_buys_is_told(fake: FakeGateway, edgewise: Edgewise) -> None:
    show = ("budget", "show", "--gateway", fake.target)
    edgewise("budget", "set", "--gateway", fake.target, "--task", "digits", "--average-energy", "2mJ")
    assert "tasks share" not in edgewise(*show).out
    share = fake.admin.budgets["digits"].pacing.share
    share.energy_j, share.points_per_j, share.next, share.gap_fraction = 2e-3, 0.8, True, 0.002
    share.solver = "convex program"
    told = " ".join(edgewise(*show).out.split())
    assert (
        "digits: its part of what tasks share: +1 J per request buys +0.8 points, and the next joule comes here" in told
    )
    assert "Shared by the convex program: no other plans, one per task, are better by more than 0.2 points." in told
    share.points_per_j, share.next = 0.0, False
    assert "more joules buy it nothing" in " ".join(edgewise(*show).out.split())
    (entry,) = [one for one in edgewise(*show, "-o", "json").json if one["task"] == "digits"]
    assert entry["pacing"]["share"]["solver"] == "convex program"


def test_feedback_is_told_and_whether_it_counted(fake: FakeGateway, edgewise: Edgewise) -> None:
    assert edgewise("feedback", "r-1", "1", "--gateway", fake.target).err == ""
    assert "not part of a comparison" in edgewise("feedback", "r-1", "0", "--gateway", fake.target).err
    assert fake.gateway.feedback == [("r-1", 1.0), ("r-1", 0.0)]
    assert edgewise("feedback", "r-1", "1.5", "--gateway", fake.target).code == 2
    assert "guard: the gate decides; gate minus best single +1.5 points over 40" in edgewise(
        "status", "--gateway", fake.target
    ).out.replace("\n", " ")


FAILURES = [
    (("infer", "DIGIT", "--max-energy", "1nJ"), 7, r"smallest budget that would do is 1\.901 µJ and 3\.102 ms"),
    (("infer", "DIGIT", "--expert", "busy"), 6, r"overloaded.*after 250 ms"),
    (("infer", "DIGIT", "--expert", "breaks"), 8, r"every attempt failed"),
    (("infer", "DIGIT", "--expert", "crashes"), 1, r"internal error"),
    (("infer", "DIGIT", "--task", "sonnets"), 4, r"served are: digits"),
    (("infer", "DIGIT", "--index", "2"), 2, r"no sample 2"),
    (("infer", "DIGIT", "--max-latency", "20"), 2, r"needs its unit; write 20ms or 20s"),
    (("infer", "DIGIT", "--max-energy", "-1J"), 2, r"5mJ"),
    (("infer", "DIGIT", "--max-energy", "nan"), 2, r"5mJ"),
    (("infer", "absent.npy"), 2, r"absent\.npy"),
    (("why", "nope"), 4, r"unknown request"),
    (("node", "drain", "nobody"), 4, r"edgewise node list"),
    (("node", "wake", "nobody"), 4, r"edgewise node list"),
    (("node", "sleep", "nobody"), 3, r"--allow-suspend"),
    (("nonsense",), 2, r"nonsense"),
    (("--gateway", "nowhere", "status"), 2, r"HOST:PORT"),
    (("config", "validate", "absent.yaml"), 3, r"cannot read"),
    (("gateway", "--listen", "0.0.0.0:1", "--tls", "off"), 3, r"without TLS"),
]


@pytest.mark.parametrize(("verb", "code", "pattern"), FAILURES, ids=[" ".join(row[0]) for row in FAILURES])
def test_failures_are_one_line_and_a_numbered_exit_code(
    fake: FakeGateway, edgewise: Edgewise, digit: str, verb: tuple[str, ...], code: int, pattern: str
) -> None:
    ended = edgewise("--gateway", fake.target, *(digit if word == "DIGIT" else word for word in verb))
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert ended.err.count("; ") >= 2, "what; why; what to do"
    assert re.search(pattern, ended.err)


def test_the_printed_minimum_does(fake: FakeGateway, edgewise: Edgewise, digit: str) -> None:
    asked = ("infer", digit, "--gateway", fake.target, "--max-energy")
    refused = edgewise(*asked, "1nJ").err
    printed = re.search(r"would do is (\S+ \S+) and", refused)
    assert printed is not None
    assert edgewise(*asked, printed[1]).code == 0


def test_nobody_there_is_exit_code_6(edgewise: Edgewise) -> None:
    ended = edgewise("status", "--gateway", "127.0.0.1:1")
    assert ended.code == 6
    assert "edgewise gateway" in ended.err


def test_advice_knows_only_reasons_that_exist() -> None:
    from orchestrator.cli.failure import ADVICE

    assert set(ADVICE) <= {*CATALOGUE, "UNREACHABLE", "TLS_FAILED"}


def test_text_of_a_peer_cannot_steer_the_terminal() -> None:
    from orchestrator.cli.output import safe

    assert "\x1b" not in safe("\x1b[2Jnode")
    assert safe("[red]node[/]") == r"\[red]node\[/]"


def test_configuration_shows_origins_and_gateway_takes_flags(
    edgewise: Edgewise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("explain: {keep: 5}\n")
    monkeypatch.setenv("EDGEWISE_LOG__LEVEL", "debug")
    shown = edgewise("config", "show", "--effective", "--config", str(file), "-o", "json").json
    assert shown["explain.keep"] == {"value": 5, "origin": f"file {file}"}
    assert shown["log.level"] == {"value": "debug", "origin": "env EDGEWISE_LOG__LEVEL"}
    assert shown["listen"]["origin"] == "default"
    assert edgewise("config", "schema").json["title"] == "GatewayConfig"
    assert edgewise("config", "validate", str(file)).err == f"{file}: valid\n"


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef edgewise"), ("fish", "complete ")]
)
def test_completion_scripts(edgewise: Edgewise, shell: str, mark: str) -> None:
    script = edgewise("completion", shell).out
    assert mark in script
    assert "_EDGEWISE_COMPLETE" in script


def test_bash_takes_the_completion_script_and_the_command_answers_it(edgewise: Edgewise) -> None:
    script = edgewise("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    asked = {**os.environ, "_EDGEWISE_COMPLETE": "bash_complete", "COMP_WORDS": "edgewise bud", "COMP_CWORD": "1"}
    answered = subprocess.run(COMMAND, env=asked, capture_output=True, text=True, check=False)
    assert "budget" in answered.stdout


def test_help_and_version(edgewise: Edgewise) -> None:
    assert re.fullmatch(r"edgewise \d+\.\d+\.\d+\n", edgewise("--version").out)
    text = edgewise("--help").out
    assert "edgewise gateway" in text
    assert edgewise("serve", "--help").code == 0
    for verb in ("gateway", "node", "infer", "why", "feedback", "status", "budget", "config", "doctor", "completion"):
        assert re.search(rf"^  {verb} +\w", text, re.MULTILINE)
        assert edgewise(verb, "-h").code == 0


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'grpc', 'rich', 'pydantic', 'yaml', 'nodes'}"
    code = f"import sys; from orchestrator.cli.main import run; run(['--help']); print({heavy} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.endswith("\nset()\n")


def test_node_run_becomes_the_node_command_with_its_arguments_untouched(tmp_path: Path) -> None:
    package = tmp_path / "nodes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ.get('EDGEWISE_NODE_GATEWAY'))\nsys.exit(9)\n"
    )
    # -m puts the working folder first on the path, so that this stands in for the real package.
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    arguments = ["--gateway", "h:1", "node", "run", "--help", "-o", "x", "--name=a b", "--", "-v"]
    ended = subprocess.run(COMMAND + arguments, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)
    assert ended.stdout == "['run', '--help', '-o', 'x', '--name=a b', '--', '-v'] h:1\n"
    assert ended.returncode == 9


@pytest.mark.parametrize("words", ["node run", "profile import", "prune train"])
def test_commands_of_the_node_help_by_the_name_they_are_called_by(words: str) -> None:
    helped = subprocess.run([*COMMAND, *words.split(), "--help"], capture_output=True, text=True, check=True)
    assert helped.stdout.startswith(f"Usage: edgewise {words} [OPTIONS]")


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [("digits-mlp", ExitCode.CONFIG, "--memory-budget"), ("nobody", ExitCode.NOT_FOUND, "unknown expert")],
)
def test_models_that_cannot_be_moved_say_why(
    fake: FakeGateway, edgewise: Edgewise, model: str, code: ExitCode, said: str
) -> None:
    for verb in ("load", "unload", "pin", "unpin"):
        ended = edgewise("models", verb, model, "--gateway", fake.target)
        assert ended.code == code
        assert said in ended.err
        assert ended.err.count("\n") == 1
