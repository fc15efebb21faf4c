"""The compiled library is there where it can be, and is the one that the sources make."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy import build
from optimizer.errors import NativeMissing
from optimizer.native import library

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(
    not library.available(), reason="not run: no compiled library (no C compiler when it was installed)"
)
def test_the_library_was_built_from_these_sources() -> None:
    assert library.digest() == build.digest(ROOT / "optimizer/native"), "stale library: run `make .venv/.installed`"


@pytest.mark.skipif(build.compiler() is None, reason="not run: no C compiler")
def test_where_there_is_a_compiler_there_is_a_library() -> None:
    assert library.available()


def test_a_machine_without_a_compiler_installs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("EDGEWISE_NATIVE", raising=False)
    assert build.build(ROOT) == []
    assert "without compiled parts (no C compiler for" in capfd.readouterr().err
    monkeypatch.setenv("EDGEWISE_NATIVE", "require")
    with pytest.raises(RuntimeError, match="could not be built"):
        build.build(ROOT)


def test_a_failed_compilation_leaves_the_old_library_alone(tmp_path: Path) -> None:
    (tmp_path / "broken.c").write_text("this is not C")
    (tmp_path / "_native.so").write_bytes(b"old")
    with pytest.raises(subprocess.CalledProcessError):
        build.compile_room(tmp_path, build.compiler() or pytest.skip("not run: no C compiler"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".so"] == ["_native.so"]
    assert (tmp_path / "_native.so").read_bytes() == b"old"


def test_a_named_compiled_part_that_is_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_open", lambda: None)
    with pytest.raises(NativeMissing, match="install a C compiler"):
        library.library()
