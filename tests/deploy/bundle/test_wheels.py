"""Whether a wheel fits a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle.wheels import Target, check, glibc_of, native_glibc, parse_name
from deploy.errors import DeployError
from tests.deploy.bundle.wheel_files import a_wheel

ORIN = Target("aarch64", "3.11")


@pytest.mark.parametrize(
    ("name", "glibc"),
    [
        ("click-8.5.1-py3-none-any.whl", (0, 0)),
        ("flatbuffers-25.12.19-py2.py3-none-any.whl", (0, 0)),
        ("grpcio-1.85.1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", (2, 17)),
        ("cryptography-50.0.2-cp39-abi3-manylinux_2_28_aarch64.whl", (2, 28)),
        ("edgewise-0.1.0-py3-none-linux_aarch64.whl", (0, 0)),
        ("numpy-2.4.6-1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", (2, 27)),
    ],
)
def test_what_fits_says_which_glibc_it_asks_for(tmp_path: Path, name: str, glibc: tuple[int, int]) -> None:
    assert check(a_wheel(tmp_path, name), ORIN) == glibc


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("grpcio-1.85.1-cp312-cp312-manylinux2014_aarch64.whl", "cp312"),
        ("grpcio-1.85.1-cp311-cp311-manylinux2014_x86_64.whl", "manylinux2014_x86_64"),
        ("grpcio-1.85.1-cp311-cp311-manylinux_2_34_aarch64.whl", "glibc 2.28"),
        ("grpcio-1.85.1-cp311-cp311-musllinux_1_2_aarch64.whl", "musllinux"),
        ("grpcio-1.85.1-cp311-cp311-win_arm64.whl", "win_arm64"),
        ("cryptography-50.0.2-cp313-abi3-manylinux_2_28_aarch64.whl", "cp313-abi3"),
        ("edgewise-0.1.0-py3-none-linux_x86_64.whl", "linux_x86_64"),
        ("notes.txt", "not the name of a wheel"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(DeployError) as caught:
        check(a_wheel(tmp_path, name), ORIN)
    assert name in caught.value.why
    assert why in caught.value.why


def test_a_library_for_another_processor_is_found_whatever_the_name_says(tmp_path: Path) -> None:
    name = "edgewise-0.1.0-py3-none-linux_aarch64.whl"
    check(a_wheel(tmp_path, name, library="aarch64"), ORIN)
    with pytest.raises(DeployError, match="libraries for x86_64, not aarch64"):
        check(a_wheel(tmp_path, name, library="x86_64"), ORIN)


def test_the_glibc_of_libraries_is_the_newest_of_their_symbols(tmp_path: Path) -> None:
    name = "edgewise-0.1.0-py3-none-linux_aarch64.whl"
    assert native_glibc(a_wheel(tmp_path, name, library="aarch64", symbol="GLIBC_2.34")) == (2, 34)
    assert native_glibc(a_wheel(tmp_path, name)) == (0, 0)


def test_names_and_platforms_are_read() -> None:
    assert parse_name("numpy-2.4.6-1-cp311-cp311-any.whl").version == "2.4.6"
    assert glibc_of("manylinux1_x86_64", "x86_64") == (2, 5)
    assert glibc_of("manylinux_2_28_x86_64", "aarch64") is None
    assert ORIN.platforms()[0] == "manylinux_2_28_aarch64"
    assert ORIN.platforms()[-1] == "manylinux2014_aarch64"
