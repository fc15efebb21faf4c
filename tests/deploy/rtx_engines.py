"""TensorRT-RTX engines, built here without a GPU: ``python -m tests.deploy.rtx_engines`` (CI runs it).

An environment of its own takes the packages of the extras `node-cpu`, `compile` and `rtx` from the index, and runs the
tests that need them: digit classifiers and VGG16 for SM 8.6, 8.9 and 12.0, engines that were tampered with, and three
fixed-k buckets of a pruned expert. Where the index has no such packages for this machine it says "not run", exit 77.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from deploy.extras import install, resolve

NOT_RUN = 77


def main() -> int:
    """Look, install, build and check; say how long it took and what was brought."""
    began_s = time.monotonic()
    if problem := resolve("rtx"):
        print(f"not run: TensorRT-RTX engines: the package index does not offer tensorrt-rtx here: {problem}")
        return NOT_RUN
    with tempfile.TemporaryDirectory(prefix="edgewise-rtx-") as folder:
        problem = install("rtx", Path(folder))
        size_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    took_s = time.monotonic() - began_s
    print(f"TensorRT-RTX engines: {problem or 'good'}; {size_bytes / 1e6:.0f} MB installed, {took_s:.0f} s")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
