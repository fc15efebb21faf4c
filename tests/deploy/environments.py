"""Checks that need what no other environment has: ``python -m tests.deploy.environments NAME …``.

CI runs them, each in an environment of its own from the package index. ``cpu``: a node's doctor is content. ``ray``:
Ray is there and new enough. ``rtx`` builds TensorRT-RTX engines without a GPU: digit classifiers and VGG16 for SM 8.6,
8.9 and 12.0, engines that were tampered with, three fixed-k buckets of a pruned expert; the module's stand-in is held
to its signatures. ``triton`` runs the kernels under Triton's interpreter against the formulas. ``resolve`` asks pip for
versions of the other extras, ``aarch64`` the same from wheels for 64-bit ARM alone.

Where the index does not have the packages for this machine, or there is none, it says "not run", and the exit code is
77.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deploy.extras import AARCH64, RESOLVED, install, reachable, resolve, resolve_aarch64, unobtainable

NOT_RUN = 77
BY_DRY_RUN: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "resolve": (RESOLVED, resolve),
    "aarch64": (AARCH64, resolve_aarch64),
}


def main() -> int:
    """Look, install and check each; say how long it took and what was brought."""
    codes = [dry_run(name) if name in BY_DRY_RUN else check(name) for name in sys.argv[1:]]
    return 1 if 1 in codes else NOT_RUN if NOT_RUN in codes else 0


def dry_run(name: str) -> int:
    """0 where pip finds versions for all extras of a list, 1 where it does not, 77 where there is no index."""
    if problem := reachable():
        print(f"not run: {name}: there is no package index here: {problem}", flush=True)
        return NOT_RUN
    began_s = time.monotonic()
    extras, resolved = BY_DRY_RUN[name]
    problems = [f"{extra}: {problem}" for extra in extras if (problem := resolved(extra))]
    found = "; ".join(problems) or f"good: {', '.join(extras)}"
    print(f"{name}: {found}; {time.monotonic() - began_s:.0f} s", flush=True)
    return 1 if problems else 0


def check(name: str) -> int:
    """0 where it is good, 1 where it failed, 77 where its packages cannot be had here."""
    began_s = time.monotonic()
    if problem := unobtainable(name):
        print(f"not run: {name}: the package index does not offer what it needs here: {problem}", flush=True)
        return NOT_RUN
    with tempfile.TemporaryDirectory(prefix=f"edgewise-{name}-") as folder:
        problem = install(name, Path(folder))
        size_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    took_s = time.monotonic() - began_s
    print(f"{name}: {problem or 'good'}; {size_bytes / 1e6:.0f} MB installed, {took_s:.0f} s", flush=True)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
