"""`python -m deploy` and the verbs of `edgewise` that become it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.bundle.assemble import Recipe, pack
from deploy.bundle.wheels import Target
from deploy.commands import SHIPPED, cli, main
from orchestrator.cli import deploy as handing
from tests.deploy.bundle.wheel_files import a_wheel


def test_edgewise_hands_every_verb_over_and_no_other() -> None:
    assert set(handing.VERBS) == set(cli.commands)
    assert set(handing.deploy.commands) == set(cli.commands)


def test_a_verb_takes_its_arguments_along(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, words: seen.append(words[1:]))
    handing.deploy.main(["push", "a@b", "--help", "--x=1"], standalone_mode=False)
    assert seen == [["-m", "deploy", "push", "a@b", "--help", "--x=1"]]


def test_a_unit_is_written_once_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = ["service", "gateway", "--user", "--command", "/opt/edgewise/bin/edgewise"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "systemctl --user enable --now edgewise-gateway.service" in told.out
    assert told.err.count("written: ") == 2
    unit = tmp_path / "systemd" / "user" / "edgewise-gateway.service"
    assert "ExecStart=/opt/edgewise/bin/edgewise gateway\n" in unit.read_text()
    assert main(words) == 0
    assert "written: " not in capsys.readouterr().err
    unit.unlink()
    assert main([*words, "--dry-run"]) == 0
    assert "ExecStart=" in capsys.readouterr().out
    assert not unit.exists()


def test_files_that_ship_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["files"]) == 0
    named = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.exists() for path in named)
    assert {path.parent.name for path in named} == {*SHIPPED, "deploy"}
    assert {path.name for path in named if path.parent.name == "deploy"} == {"verify-orin.sh", "verify-rtx.sh"}
    assert main(["files", "kubernetes"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_bundle_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = a_wheel(tmp_path, "edgewise-0.1.0-py3-none-any.whl")
    pack(Recipe(Target("aarch64", "3.12")), [wheel], tmp_path / "b.tar")
    assert main(["inspect", str(tmp_path / "b.tar")]) == 0
    assert json.loads(capsys.readouterr().out)["python"] == "3.12"


def test_a_python_that_is_no_file_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bundle", "--platform", "aarch64", "-o", str(tmp_path / "b.tar"), "--standalone-python"]
    assert main([*words, str(tmp_path / "none.tar.gz")]) == 2
    assert main([*words, "https://127.0.0.1:1/cpython.tar.gz"]) == 2
    told = capsys.readouterr().err
    assert "is no file" in told
    assert "needs the digest" in told
