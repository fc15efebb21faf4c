"""Builds llama.cpp's server, `python deploy/llama.py --out DIR`, for machines that have none.

The source comes with the source package of llama-cpp-python, fetched by pip; cmake and ninja are taken from the search
path, else fetched by pip too. Only the server is built, for this machine's processor, without pictures of a user
interface, downloads and TLS: a node asks it over loopback. Takes 10 to 30 minutes of one core, and is never run by
`make`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

NAME = "llama-cpp-python"
PACKAGE = f"{NAME}==0.3.36"
SOURCE = "vendor/llama.cpp"
PROGRAM = "llama-server"
SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "GGML_OPENMP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
}


def build(out: Path, work: Path, *, jobs: int, sdist: Path | None, more: list[str]) -> Path:
    """Build the server and copy it to `out`.

    Args:
        work: Where source and objects lie; what is there is used again.
        sdist: The source package; None fetches it.
        more: Further settings, such as ``GGML_CUDA=ON``.

    Raises:
        subprocess.CalledProcessError: if a step fails; it has said why.
    """
    work.mkdir(parents=True, exist_ok=True)
    source = _unpacked(sdist or _fetched(work), work)
    cmake, environment = _tools(work)
    settings = [f"-D{name}={value}" for name, value in SETTINGS.items()] + [f"-D{one}" for one in more]
    objects = work / "objects"
    _run([cmake, "-S", source, "-B", objects, "-G", "Ninja", *settings], environment)
    _run([cmake, "--build", objects, "--target", PROGRAM, "-j", str(jobs)], environment)
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(objects / "bin" / PROGRAM, out / PROGRAM))


def _fetched(work: Path) -> Path:
    # Not ":all:", which would also build pip's own build tools from source.
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", NAME]
    command: list[str | Path] = [*download, "-d", work, PACKAGE]
    _run(command, dict(os.environ))
    return next(work.glob("llama_cpp_python-*.tar.gz"))


def _unpacked(sdist: Path, work: Path) -> Path:
    folder = work / sdist.name.removesuffix(".tar.gz")
    if not folder.exists():
        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
    return folder / SOURCE


def _tools(work: Path) -> tuple[str, dict[str, str]]:
    """cmake, and the environment in which it finds ninja."""
    found = shutil.which("cmake")
    if found and shutil.which("ninja"):
        return found, dict(os.environ)
    folder = work / "tools"
    venv.create(folder, with_pip=True)
    _run([folder / "bin" / "python", "-m", "pip", "install", "-q", "cmake", "ninja"], dict(os.environ))
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return str(folder / "bin" / "cmake"), {**os.environ, "PATH": path}


def _run(command: list[str | Path], environment: dict[str, str]) -> None:
    subprocess.run([str(part) for part in command], check=True, env=environment)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/llama"), help="where the program goes")
    parser.add_argument("--work", type=Path, default=Path("build/llama-work"), help="source and objects")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--sdist", type=Path, help="source package that lies here already")
    parser.add_argument(
        "-D", dest="more", action="append", default=[], metavar="NAME=VALUE", help="such as GGML_CUDA=ON"
    )
    given = parser.parse_args()
    print(build(given.out, given.work, jobs=given.jobs, sdist=given.sdist, more=given.more))


if __name__ == "__main__":
    main()
