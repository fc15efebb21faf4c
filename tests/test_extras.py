"""Which packages may be asked for together."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from deploy import extras
from nodes.packages import CLASHES
from tests.deploy import environments

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _packages(extra: str) -> set[str]:
    """Names of all packages of an extra, those of extras that it names included."""
    found: set[str] = set()
    for requirement in EXTRAS[extra]:
        name = requirement.split(">")[0].split("=")[0].strip()
        if name.startswith("edgewise["):
            for other in name.removeprefix("edgewise[").rstrip("]").split(","):
                found |= _packages(other)
        else:
            found.add(name.split("[")[0])
    return found


WHAT_FOR = {
    "node-cpu": "onnxruntime",
    "node-cuda": "onnxruntime-gpu",
    "compile": "onnx",
    "tensorrt": "tensorrt",
    "rtx": "tensorrt-rtx",
    "train": "torch",
    "personalize": "torch",
    "ray": "ray",
    "optimizer": "cvxpy",
    "energy": "zeus",
}


@pytest.mark.parametrize("extra", WHAT_FOR)
def test_an_extra_brings_what_it_is_for(extra: str) -> None:
    assert WHAT_FOR[extra] in _packages(extra)


@pytest.mark.parametrize(("older", "newer"), [("node", "node-cpu"), ("zeus", "energy"), ("plan", "optimizer")])
def test_older_names_still_mean_the_same(older: str, newer: str) -> None:
    assert _packages(older) == _packages(newer)


@pytest.mark.parametrize("clash", CLASHES, ids=lambda clash: clash.other)
def test_packages_that_clash_are_never_asked_for_together(clash: object) -> None:
    both = {getattr(clash, "one", ""), getattr(clash, "other", "")}
    assert both <= set().union(*(_packages(extra) for extra in EXTRAS)), "the rule is about packages that there are"
    assert [extra for extra in EXTRAS if both <= _packages(extra)] == []


def test_ray_is_new_enough_to_ask_for_a_token() -> None:
    assert EXTRAS["ray"] == ["ray[default]>=2.54"]


def test_every_extra_that_a_message_names_exists() -> None:
    files = [path for room in ("nodes", "orchestrator", "optimizer", "deploy") for path in (ROOT / room).rglob("*.*")]
    texts = [path.read_text() for path in (*files, ROOT / "README.md") if path.suffix in (".py", ".md")]
    named = {
        name for text in texts for group in re.findall(r"edgewise\[([a-z0-9,-]+)\]", text) for name in group.split(",")
    }
    assert len(named) > 8
    assert named - set(EXTRAS) == set()


def test_every_extra_is_installed_or_resolved_by_the_script_or_part_of_one_that_is() -> None:
    installed = {extra for environment in extras.INSTALLED.values() for extra in environment.extras}
    checked = {*installed, *extras.RESOLVED, *extras.ELSEWHERE}
    covered = set().union(*(set(extras.requirements(extra)) for extra in checked))
    left = {extra: rest for extra in EXTRAS if (rest := set(extras.requirements(extra)) - covered)}
    # What `make test` itself installs.
    assert set(left) <= {"dev", "encoder", "study", "postgres", "parquet"}


def test_continuous_integration_installs_or_resolves_all_of_it() -> None:
    """Every environment by name, and both lists."""
    (line,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "tests.deploy.environments" in line]
    named = line.partition("environments")[2].partition("||")[0].split()
    assert set(named) == {*extras.INSTALLED, *environments.BY_DRY_RUN}
    assert {*extras.AARCH64, *extras.RESOLVED} <= set(EXTRAS)


def test_what_is_installed_here_fits_the_extras() -> None:
    here = metadata.version("onnxruntime").split(".")
    assert [int(part) for part in here[:2]] >= [1, 22]


def test_gpu_meters_are_an_extra_of_their_own() -> None:
    assert _packages("gpu") == {"nvidia-ml-py"}
    assert not {"nvidia-ml-py", "zeus"} & (_packages("dev") | _packages("node"))


def test_ray_is_an_extra_of_its_own() -> None:
    assert _packages("ray") == {"ray"}
    assert [extra for extra in EXTRAS if "ray" in _packages(extra)] == ["ray"]
