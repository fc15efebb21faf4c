"""A bundle for an Orin, made here from the package index: ``python -m tests.deploy.aarch64_bundle`` (CI runs it).

Every wheel's tag and every library's processor is checked as it is made; it is read back, and packed once more to the
same bytes. Without an index it says "not run" and exits 77.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from deploy.bundle import archive
from deploy.bundle.assemble import Recipe, gather, pack
from deploy.bundle.wheels import Target
from deploy.errors import DeployError

NOT_RUN = 77
# An Orin makes its engines itself.
RECIPE = Recipe(Target("aarch64", "3.11"), ("node", "compile"))


def main() -> int:
    """Make it, check it, say how long it took."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgewise-bundle-") as folder:
        try:
            wheels = gather(RECIPE, Path(folder))
        except DeployError as error:
            print(f"not run: aarch64 bundle: {error}")
            return NOT_RUN
        made = pack(RECIPE, wheels, Path(folder) / "one.tar")
        again = pack(RECIPE, wheels, Path(folder) / "two.tar")
        if archive.read(made.file).sha256 != again.sha256:
            print("aarch64 bundle: equal wheels made different bundles")
            return 1
    manifest = made.manifest
    compiled = f"compiled parts for glibc {manifest.native_glibc}" if manifest.native else "no compiled parts"
    took_s = time.monotonic() - began_s
    print(f"aarch64 bundle: {len(wheels)} wheels, {made.size_bytes / 1e6:.1f} MB, {compiled}, in {took_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
