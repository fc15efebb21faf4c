"""Environments with packages that clash are refused at the start, and named by `doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.errors import ConfigError
from nodes.packages import CLASHES, require_compatible


@pytest.mark.parametrize("clash", CLASHES, ids=lambda clash: clash.other)
def test_either_alone_is_fine_and_both_are_not(clash: object) -> None:
    one, other = getattr(clash, "one", ""), getattr(clash, "other", "")
    require_compatible(lambda name: name == one)
    require_compatible(lambda name: name == other)
    with pytest.raises(ConfigError, match=f"{one} and {other}"):
        require_compatible(lambda name: name in (one, other))


def _with(folder: Path, *distributions: str) -> dict[str, str]:
    for name in distributions:
        place = folder / f"{name.replace('-', '_')}-9.9.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def _nodes(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodes", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("distributions", [("onnxruntime-gpu",), ("ray", "zeus")])
def test_a_node_does_not_start_beside_a_clash(tmp_path: Path, distributions: tuple[str, ...]) -> None:
    done = _nodes(_with(tmp_path, *distributions), "run", "--gateway", "127.0.0.1:1")
    assert done.returncode == 3
    assert f"{distributions[-1]} are installed together" in done.stderr


def test_doctor_says_it(tmp_path: Path) -> None:
    done = _nodes(_with(tmp_path, "onnxruntime-gpu"), "doctor", "-o", "json")
    (row,) = [row for row in json.loads(done.stdout) if row["check"] == "packages"]
    assert row["ok"] is False
    assert "edgewise[node-cuda]" in row["detail"]
    assert done.returncode == 3
