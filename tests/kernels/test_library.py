"""The compiled kernels are the ones that the sources make, and what is named runs or is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy import build
from kernels import implementations
from kernels.errors import KernelMissing
from kernels.masked_conv.cpu import ConvShape, MaskedConv
from kernels.native import library
from kernels.native.library import Isa

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not library.available(), reason="not run: no compiled library (no C compiler at installation)")
def test_the_library_was_built_from_these_sources() -> None:
    assert library.digest() == build.digest(ROOT / "kernels/native"), "stale library: run `make .venv/.installed`"


@pytest.mark.skipif(build.compiler() is None, reason="not run: no C compiler")
def test_where_there_is_a_compiler_there_are_kernels() -> None:
    assert library.available()
    assert library.runs(Isa.PLAIN)


def test_absent_kernels_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_open", lambda: None)
    with pytest.raises(KernelMissing, match="install a C compiler"):
        library.fastest()


def test_a_named_instruction_set_that_does_not_run_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.available():
        pytest.skip("not run: no compiled library")
    absent = next(isa for isa in Isa if not library.runs(isa))
    with pytest.raises(KernelMissing, match=absent.name):
        MaskedConv(np.ones((16, 1, 1, 1), np.float32), np.zeros(16, np.float32), ConvShape(2, 2), isa=absent)


def test_what_is_absent_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {one.name: one.lacks for one in implementations.implementations()}
    for isa in Isa:
        assert (named[f"chain/{isa.name.lower()}"] == "") == library.runs(isa)
    monkeypatch.setattr(implementations, "available", lambda: False)
    told = implementations.described()
    assert told.startswith("none; absent (no C compiler when edgewise was installed")
    assert all(f"{op}/plain" in told for op in implementations.COMPILED)


def test_every_operation_is_listed() -> None:
    """An operation that somebody adds must be named here too, or nobody would hear that it is absent."""
    by_means = {
        means: {path.parent.name for path in (ROOT / "kernels").glob(f"*/{means}.py")} for means in ("cpu", "triton")
    }
    assert by_means == {"cpu": set(implementations.COMPILED), "triton": set(implementations.TRITON)}


def test_the_fastest_is_the_last_that_runs() -> None:
    if not library.available():
        pytest.skip("not run: no compiled library")
    assert library.fastest() == max(isa for isa in Isa if library.runs(isa))
