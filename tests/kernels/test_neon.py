"""ARM's code, cross-compiled and run under an emulator: right or wrong can be told there, fast or slow cannot.

Needs Debian's ``gcc-aarch64-linux-gnu`` and ``qemu-user-static``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.build import FLAGS, compiler
from kernels.native.library import Isa, available, runs

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "kernels/native"
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
FILES = ("isa.c", "masked_conv_plain.c", "masked_conv_avx2.c", "masked_conv_avx512.c", "masked_conv_neon.c")


def built(cc: str, into: Path, *more: str, check: str = "check_conv.c") -> Path:
    """A check, compiled as the library is."""
    flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC")]
    files = [str(SOURCES / name) for name in FILES]
    subprocess.run([cc, *flags, *more, f"-I{SOURCES}", str(HERE / check), *files, "-o", into, "-lm"], check=True)
    return into


def results(command: list[str]) -> dict[str, float]:
    """Largest error of each instruction set that ran."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: float(error) for name, error in (line.split() for line in done.stdout.splitlines())}


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason=f"not run: {CROSS} or {EMULATOR} is not installed"
)
def test_neon_is_right_under_emulation(tmp_path: Path) -> None:
    found = results([EMULATOR, str(built(CROSS, tmp_path / "check", "-static"))])
    assert set(found) == {"plain", "neon"}
    assert max(found.values()) <= 1e-4


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason=f"not run: {CROSS} or {EMULATOR} is not installed"
)
def test_whole_programs_are_right_on_neon_under_emulation(tmp_path: Path) -> None:
    found = results([EMULATOR, str(built(CROSS, tmp_path / "check", "-static", check="check_program.c"))])
    assert set(found) == {"plain", "neon"}
    assert max(found.values()) <= 1e-5


@pytest.mark.skipif(compiler() is None or not available(), reason="not run: no C compiler")
def test_layers_are_right_on_every_instruction_set_here(tmp_path: Path) -> None:
    """What the emulator runs, run here; and the control: it fails where one number is spoilt in between."""
    cc = compiler()
    assert cc is not None
    check = str(built(cc, tmp_path / "check"))
    found = results([check])
    assert set(found) == {isa.name.lower() for isa in Isa if runs(isa)}
    assert max(found.values()) <= 1e-4
    assert subprocess.run([check, "spoil"], capture_output=True).returncode == 1


@pytest.mark.skipif(compiler() is None or not available(), reason="not run: no C compiler")
def test_whole_programs_agree_on_every_instruction_set_here(tmp_path: Path) -> None:
    """What the emulator runs, run here; and the control: it fails where a layer is spoilt in between."""
    cc = compiler()
    assert cc is not None
    check = str(built(cc, tmp_path / "check", check="check_program.c"))
    found = results([check])
    assert set(found) == {isa.name.lower() for isa in Isa if runs(isa)}
    assert max(found.values()) <= 1e-5
    assert subprocess.run([check, "spoil"], capture_output=True).returncode == 1


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason=f"not run: {CROSS} or {EMULATOR} is not installed"
)
def test_layers_of_forked_classifiers_are_right_on_neon_under_emulation(tmp_path: Path) -> None:
    found = results([EMULATOR, str(built(CROSS, tmp_path / "check", "-static", check="check_fork.c"))])
    assert set(found) == {"plain", "neon"}
    assert max(found.values()) <= 1e-4


@pytest.mark.skipif(compiler() is None or not available(), reason="not run: no C compiler")
def test_layers_of_forked_classifiers_agree_on_every_instruction_set_here(tmp_path: Path) -> None:
    """What the emulator runs, run here; and the control: it fails where a number is spoilt in between."""
    cc = compiler()
    assert cc is not None
    check = str(built(cc, tmp_path / "check", check="check_fork.c"))
    found = results([check])
    assert set(found) == {isa.name.lower() for isa in Isa if runs(isa)}
    assert max(found.values()) <= 1e-4
    assert subprocess.run([check, "spoil"], capture_output=True).returncode == 1
