"""Which packages may be asked for together."""

from __future__ import annotations

import tomllib
from pathlib import Path

EXTRAS: dict[str, list[str]] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


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


def test_zeus_and_ray_are_never_asked_for_together() -> None:
    """Zeus brings amdsmi; beside it `import ray` fails where there is no ROCm."""
    assert "zeus" in _packages("zeus")
    assert "ray" in _packages("ray")
    assert [extra for extra in EXTRAS if {"zeus", "ray"} <= _packages(extra)] == []


def test_gpu_meters_are_an_extra_of_their_own() -> None:
    assert _packages("gpu") == {"nvidia-ml-py"}
    assert not {"nvidia-ml-py", "zeus"} & (_packages("dev") | _packages("node"))


def test_ray_is_an_extra_of_its_own() -> None:
    assert _packages("ray") == {"ray"}
    assert [extra for extra in EXTRAS if "ray" in _packages(extra)] == ["ray"]
