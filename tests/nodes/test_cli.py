from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodes.cli import main
from nodes.errors import ExitCode


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_experts_are_listed_cheapest_first(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "experts", "-o", "json")
    rows = json.loads(out)
    assert code == ExitCode.OK
    assert len(rows) >= 5
    assert [row["macs"] for row in rows] == sorted(row["macs"] for row in rows)
    code, table, _ = _run(capsys, "experts")
    assert all(row["expert"] in table for row in rows)


@pytest.mark.parametrize(
    ("flags", "code", "needle"),
    [
        (["--experts", "digits-mlp,nobody"], ExitCode.CONFIG, "digits-lenet5"),
        (["--profile", "toaster"], ExitCode.CONFIG, "jetson-agx-orin"),
        (["--name", "Not A Name"], ExitCode.CONFIG, "--name"),
        (["--models", "/nowhere"], ExitCode.CONFIG, "/nowhere"),
        (["--memory-limit", "1000"], ExitCode.CONFIG, "--experts"),
        (["--energy", "modelled"], ExitCode.ENERGY_SOURCE_MISSING, "--profile"),
        (["--energy", "solar"], ExitCode.USAGE, "rapl"),
        (["--worker-python", "/bin/false"], ExitCode.ENGINE_FAILED, "/bin/false"),
    ],
)
def test_what_cannot_work_is_said_before_the_gateway_is_called(
    capsys: pytest.CaptureFixture[str], flags: list[str], code: ExitCode, needle: str
) -> None:
    found, _, err = _run(capsys, "run", "--gateway", "127.0.0.1:1", *flags)
    assert found == code
    assert needle in err
    assert "Traceback" not in err


def test_flags_come_from_the_environment_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWISE_NODE_GATEWAY", "nonsense")
    code, _, err = _run(capsys, "run")
    assert (code, "--gateway" in err) == (ExitCode.CONFIG, True)
    code, _, err = _run(capsys, "run", "--gateway", "127.0.0.1:1", "--name", "Bad")
    assert "--name" in err


def test_doctor_is_content_with_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "doctor", "-o", "json", "--profile", "rtx-4090")
    checks = {row["check"]: row for row in json.loads(out)}
    expected = {"python", "packages", "disk", "catalogue", "worker", "kernels", "sandbox", "energy", "identity"}
    assert set(checks) == expected
    assert all(row["ok"] for row in checks.values())
    assert code == ExitCode.OK
    assert "onnxruntime" in checks["worker"]["detail"]
    assert "profile:rtx-4090" in checks["energy"]["detail"]


@pytest.mark.parametrize(
    ("flags", "failed", "code"),
    [
        (["--energy", "modelled"], "energy", ExitCode.ENERGY_SOURCE_MISSING),
        (["--worker-python", "/bin/false"], "worker", ExitCode.ENGINE_FAILED),
        (["--models", "/nowhere"], "catalogue", ExitCode.CONFIG),
    ],
)
def test_doctor_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], flags: list[str], failed: str, code: ExitCode
) -> None:
    found, out, _ = _run(capsys, "doctor", "-o", "json", *flags)
    assert found == code
    assert [row["check"] for row in json.loads(out) if not row["ok"]] == [failed]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "--help")
    assert code == ExitCode.OK
    assert all(verb in out for verb in ("run", "experts", "doctor"))


def test_the_worker_needs_nothing_of_the_rest(tmp_path: Path) -> None:
    import ast

    import kernels
    import nodes.worker

    # The kernels are a leaf, and come along with the worker.
    allowed = {"nodes.worker", "kernels.", "numpy", "onnxruntime"}
    folders = (Path(nodes.worker.__path__[0]), Path(kernels.__path__[0]))
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 10))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                fine = top not in ("nodes", "edgewise", "orchestrator", "optimizer", "kernels")
                assert fine or any(name.startswith(prefix) for prefix in allowed), (file.name, name)
