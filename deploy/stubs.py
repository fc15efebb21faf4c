"""Generate the Python stubs of `proto/`, or check that the committed ones are what the generator makes.

Run as ``python -m deploy.stubs [--check | --release]``. Exit code 1 when a committed stub differs. With `--release`,
which belongs to the making of a release, the protos as they are become what later versions must understand.
"""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent.parent / "proto"
PACKAGE = Path("edgewise/v1")
RELEASED = PROTO_ROOT.parent / "tests" / "system" / "previous" / "wire.binpb"


def generate(target: Path) -> None:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their `.pyi` for every proto file below `target`."""
    from grpc_tools import protoc

    plugins = Path(sys.executable).parent
    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    quiet = [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    found = [f"--plugin=protoc-gen-{name}={plugins}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{PROTO_ROOT}", *outputs, *quiet, *found, *sources]) != 0:
        raise SystemExit("protoc failed: see the lines above")


def release() -> None:
    """Keep the present protos as those of the last release, for `tests/system/test_versions.py`."""
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    if protoc.main(["protoc", f"-I{PROTO_ROOT}", "--include_imports", f"--descriptor_set_out={RELEASED}", *sources]):
        raise SystemExit("protoc failed: see the lines above")


def stale(fresh: Path) -> list[str]:
    """Names of stubs that differ between `fresh` and the committed folder, or exist on one side only."""
    made = {path.name for path in (fresh / PACKAGE).iterdir()}
    kept = {path.name for path in (PROTO_ROOT / PACKAGE).glob("*_pb2*")}
    both = made & kept
    differing = {
        name for name in both if not filecmp.cmp(fresh / PACKAGE / name, PROTO_ROOT / PACKAGE / name, shallow=False)
    }
    return sorted((made ^ kept) | differing)


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    if arguments == ["--release"]:
        release()
        return 0
    if arguments != ["--check"]:
        generate(PROTO_ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder))
    for name in names:
        print(f"proto/{PACKAGE}/{name}: not what the generator makes; run `make proto` and commit")
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
