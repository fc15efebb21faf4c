"""Packages that must not be installed together, found before they do harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from nodes.errors import ConfigError


@dataclass(frozen=True)
class Clash:
    """Two distributions that must not share an environment, and why."""

    one: str
    other: str
    why: str


CLASHES = (
    Clash(
        "onnxruntime",
        "onnxruntime-gpu",
        "both install the module onnxruntime, and whichever came last wins: keep edgewise[node-cpu] or"
        " edgewise[node-cuda], not both",
    ),
    Clash(
        "ray",
        "zeus",
        "zeus brings amdsmi, beside which `import ray` fails where there is no ROCm: give edgewise[ray] and"
        " edgewise[energy] an environment each",
    ),
)


def installed(distribution: str) -> bool:
    """Whether this interpreter finds a distribution."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def require_compatible(has: Callable[[str], bool] = installed) -> None:
    """Refuse an environment with two distributions that clash. Cost: some milliseconds.

    Raises:
        ConfigError: names both, and what to do.
    """
    for clash in CLASHES:
        if has(clash.one) and has(clash.other):
            raise ConfigError(f"{clash.one} and {clash.other} are installed together: {clash.why}")
