"""Bundles: the same bytes from the same content, and no byte of it taken unchecked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from deploy.bundle import archive
from deploy.bundle.archive import Bundle
from deploy.bundle.assemble import Recipe, pack
from deploy.bundle.manifest import MANIFEST
from deploy.bundle.wheels import Target
from deploy.errors import DeployError
from tests.deploy.bundle.wheel_files import a_wheel

OWN, OTHER = "edgewise-0.1.0-py3-none-linux_aarch64.whl", "click-8.5.1-py3-none-any.whl"
ORIN = Target("aarch64", "3.11")


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    return make(tmp_path, "one.tar")


def make(folder: Path, name: str, **recipe: Path) -> Bundle:
    wheels = [a_wheel(folder, OWN, library="aarch64", symbol="GLIBC_2.34"), a_wheel(folder, OTHER)]
    return pack(Recipe(ORIN, **recipe), wheels, folder / name)  # type: ignore[arg-type]


def rewritten(bundle: Bundle, to: Path, change: str, content: bytes | None) -> Path:
    """The bundle with one file changed, added, or (None) left out."""
    with tarfile.open(bundle.file) as old, tarfile.open(to, "w") as new:
        names = [*old.getnames(), *([] if change in old.getnames() else [change])]
        for name in names:
            found = old.extractfile(name) if name in old.getnames() else None
            data = content if name == change else found.read() if found else b""
            if data is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))
    return to


def test_equal_content_is_equal_bytes(tmp_path: Path, made: Bundle) -> None:
    for path in tmp_path.glob("*.whl"):
        os.utime(path, (1e9, 1e9))
    again = make(tmp_path, "two.tar")
    assert again.file.read_bytes() == made.file.read_bytes()
    assert (again.sha256, again.release) == (made.sha256, made.release)


def test_another_content_is_another_release(tmp_path: Path, made: Bundle) -> None:
    models = tmp_path / "mine"
    models.mkdir()
    (models / "expert.onnx").write_bytes(b"weights")
    other = make(tmp_path, "two.tar", models=models)
    assert other.release != made.release
    assert other.manifest.models == "models/mine"


def test_the_manifest_says_what_it_is_for(made: Bundle) -> None:
    manifest = archive.read(made.file).manifest
    assert (manifest.machine, manifest.python, manifest.version) == ("aarch64", "3.11", "0.1.0")
    assert (manifest.native, manifest.native_glibc, manifest.glibc) == (True, "2.34", "0.0")
    assert [entry.path for entry in manifest.files] == [f"wheels/{OTHER}", f"wheels/{OWN}"]


def test_a_wheel_without_compiled_parts_says_so(tmp_path: Path) -> None:
    wheel = a_wheel(tmp_path, "edgewise-0.1.0-py3-none-any.whl")
    manifest = pack(Recipe(ORIN), [wheel], tmp_path / "pure.tar").manifest
    assert (manifest.native, manifest.native_glibc) == (False, None)


def test_a_foreign_wheel_does_not_get_in(tmp_path: Path) -> None:
    wheels = [a_wheel(tmp_path, OWN, library="x86_64")]
    with pytest.raises(DeployError, match="x86_64"):
        pack(Recipe(ORIN), wheels, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_without_our_wheel_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no wheel of Edgewise"):
        pack(Recipe(ORIN), [a_wheel(tmp_path, OTHER)], tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("change", "content", "why"),
    [
        (f"wheels/{OTHER}", b"other bytes", "is not what its manifest says"),
        (f"wheels/{OTHER}", None, "is missing"),
        ("wheels/extra.whl", b"", "is not in its manifest"),
        ("../outside", b"", "is not in its manifest"),
        (MANIFEST, b"{}", "version: Field required"),
        (MANIFEST, b"not json", "manifest.json"),
        (MANIFEST, None, "does not begin with"),
    ],
)
def test_damage_is_found(tmp_path: Path, made: Bundle, change: str, content: bytes | None, why: str) -> None:
    with pytest.raises(DeployError, match=r"bundle refused") as caught:
        archive.read(rewritten(made, tmp_path / "changed.tar", change, content))
    assert why in caught.value.why


@pytest.mark.parametrize("path", ["../x.whl", "/etc/passwd", "wheels/../../x", "wheels//x", "other/x"])
def test_a_manifest_names_nothing_outside(tmp_path: Path, made: Bundle, path: str) -> None:
    manifest = json.loads(made.manifest.text())
    manifest["files"][0]["path"] = path
    with pytest.raises(DeployError, match="files"):
        archive.read(rewritten(made, tmp_path / "changed.tar", MANIFEST, json.dumps(manifest).encode()))


def test_a_cut_file_is_refused(tmp_path: Path, made: Bundle) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(made.file.read_bytes()[:1000])
    with pytest.raises(DeployError, match="bundle refused"):
        archive.read(cut)
