"""Our own wheel: made in a copy, the same each time, with what an installed `edgewise deploy` needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.bundle.source import ROOT, build_wheel, is_source, project_version
from deploy.commands import SHIPPED


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without compiled parts: those take a minute and have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_NATIVE", "skip")
        return build_wheel(tmp_path_factory.mktemp("wheel"), "aarch64")


def test_it_is_named_for_what_is_in_it(wheel: Path) -> None:
    assert wheel.name == f"edgewise-{project_version()}-py3-none-any.whl"
    assert is_source()


def test_it_holds_the_files_that_deploy_needs_and_not_those_of_a_checkout(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in SHIPPED:
        kept = {f"deploy/{folder}/{path.name}" for path in (ROOT / "deploy" / folder).iterdir() if path.is_file()}
        assert kept
        assert kept <= names
    assert {"deploy/push/probe.sh", "deploy/push/host.py", "deploy/constraints.txt"} <= names
    alien = [name for name in names if name.startswith(("tests/", "deploy/demo/", "deploy/docs/", "deploy/build.py"))]
    assert alien == []


def test_an_installed_edgewise_finds_them(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [sys.executable, "-P", "-c", "from orchestrator.cli.main import main; main()", "deploy", "files"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = [Path(line) for line in done.stdout.splitlines()]
    assert tmp_path / "deploy" / "systemd" / "node.system.service" in found
    assert all(path.exists() and path.is_relative_to(tmp_path) for path in found)


def test_the_times_in_it_do_not_depend_on_when_it_was_made(wheel: Path) -> None:
    assert {entry.date_time[:3] for entry in zipfile.ZipFile(wheel).infolist()} == {(1980, 1, 1)}
