"""Puts the stand-ins in the way of worker processes that are started from now on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
NEEDS = "not run: no C compiler for the stand-in of CUDA's runtime"
TENSORRT = """from tensorrt_rtx import *
from tensorrt_rtx import __version__
del ComputeCapability
"""


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def install(folder: Path, setenv: Callable[[str, str], None]) -> Path:
    """Make libcudart and both modules in a folder and point the environment there; returns TensorRT's diary."""
    cc = compiler()
    assert cc is not None
    library, diary = folder / "libcudart.so.13", folder / "diary"
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "cudart.c")], check=True)
    shutil.copyfile(HERE / "tensorrt_rtx.py", folder / "tensorrt_rtx.py")
    (folder / "tensorrt.py").write_text(TENSORRT)
    diary.touch()
    setenv("LD_LIBRARY_PATH", str(folder))
    setenv("PYTHONPATH", str(folder))
    setenv("FAKE_TENSORRT_LOG", str(diary))
    return diary
