"""Checks that need packages which no other environment has: ``python -m tests.deploy.environments rtx triton``.

CI runs them. ``rtx`` builds TensorRT-RTX engines without a GPU: digit classifiers and VGG16 for SM 8.6, 8.9 and 12.0,
engines that were tampered with, three fixed-k buckets of a pruned expert. ``triton`` runs the kernels under Triton's
interpreter against the formulas. Each makes an environment of its own from the package index; where that does not have
the packages for this machine it says "not run", and the exit code is 77.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from deploy.extras import install, unobtainable

NOT_RUN = 77


def main() -> int:
    """Look, install and check each; say how long it took and what was brought."""
    codes = [check(name) for name in sys.argv[1:]]
    return 1 if 1 in codes else NOT_RUN if NOT_RUN in codes else 0


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
