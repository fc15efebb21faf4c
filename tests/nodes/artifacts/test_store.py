"""The store: whole files or none, the right bytes or none, and room for what is wanted."""

from __future__ import annotations

import hashlib
import os
from collections import namedtuple
from pathlib import Path

import pytest

from nodes.artifacts import store as module
from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.artifacts.store import ModelStore
from nodes.errors import ArtifactRefused

QUOTA_BYTES = 1000
Usage = namedtuple("Usage", "total used free")


def manifest(name: str, *contents: bytes) -> Manifest:
    files = [FileEntry(f"f{n}", hashlib.sha256(data).hexdigest(), len(data)) for n, data in enumerate(contents)]
    return Manifest(name, "digits", tuple(files))


def put(store: ModelStore, wanted: Manifest, *contents: bytes) -> None:
    store.make_room(wanted)
    for file, data in zip(wanted.files, contents, strict=True):
        store.append(file.sha256, 0, data)
        store.finish(file.sha256)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", quota_bytes=QUOTA_BYTES)


def test_a_blob_has_its_name_only_as_a_whole(store: ModelStore, tmp_path: Path) -> None:
    wanted = manifest("m", b"abcdef")
    sha256 = wanted.files[0].sha256
    store.make_room(wanted)
    store.append(sha256, 0, b"abc")
    assert (store.has(sha256), store.arrived(sha256)) == (False, 3)
    # Another process, later, goes on from there.
    again = ModelStore(tmp_path / "store", quota_bytes=QUOTA_BYTES)
    assert again.arrived(sha256) == 3
    with pytest.raises(ArtifactRefused):
        again.append(sha256, 2, b"cdef")
    again.append(sha256, 3, b"def")
    again.finish(sha256)
    assert again.read(sha256) == b"abcdef"


def test_other_bytes_never_get_the_name(store: ModelStore) -> None:
    wanted = manifest("m", b"abc")
    store.make_room(wanted)
    store.append(wanted.files[0].sha256, 0, b"abd")
    with pytest.raises(ArtifactRefused) as refused:
        store.finish(wanted.files[0].sha256)
    assert refused.value.reason == "DIGEST_INVALID"
    assert (store.has(wanted.files[0].sha256), store.arrived(wanted.files[0].sha256)) == (False, 0)


@pytest.mark.parametrize("how", ["other bytes", "link", "second name", "empty", "gone"])
def test_what_was_tampered_with_is_not_opened(store: ModelStore, tmp_path: Path, how: str) -> None:
    wanted = manifest("m", b"abc")
    put(store, wanted, b"abc")
    assert store.read(wanted.files[0].sha256) == b"abc"
    blob = tmp_path / "store" / "blobs" / wanted.files[0].sha256
    same = tmp_path / "same"
    same.write_bytes(b"abc")
    match how:
        case "other bytes":
            blob.write_bytes(b"abd")
        case "link":
            blob.unlink()
            blob.symlink_to(same)
        case "second name":
            blob.unlink()
            os.link(same, blob)
        case "empty":
            blob.write_bytes(b"")
        case "gone":
            blob.unlink()
    with pytest.raises(ArtifactRefused) as refused:
        store.read(wanted.files[0].sha256)
    assert refused.value.reason == "DIGEST_INVALID"


def test_a_model_is_installed_with_all_of_its_blobs_or_not(store: ModelStore, tmp_path: Path) -> None:
    wanted = manifest("m", b"abc", b"def")
    put(store, wanted, b"abc", b"def")
    store.install(wanted)
    assert store.installed() == [wanted]
    (tmp_path / "store" / "blobs" / wanted.files[1].sha256).unlink()
    assert store.installed() == []
    (tmp_path / "store" / "installed" / "x.json").write_text("{")
    assert store.installed() == []


def test_room_is_made_from_what_nobody_needs_oldest_first(store: ModelStore, tmp_path: Path) -> None:
    models = [manifest(name, name.encode() * 300) for name in "abc"]
    for age, one in enumerate(models):
        put(store, one, one.name.encode() * 300)
        os.utime(tmp_path / "store" / "blobs" / one.files[0].sha256, (age, age))
    store.install(models[0])
    new = manifest("d", b"d" * 300)
    store.make_room(new)
    # The oldest is installed and stays; of the others the older one went, and the younger could stay.
    assert [store.has(one.files[0].sha256) for one in models] == [True, False, True]


def test_what_is_installed_is_never_evicted(store: ModelStore) -> None:
    first = manifest("a", b"a" * 700)
    put(store, first, b"a" * 700)
    store.install(first)
    with pytest.raises(ArtifactRefused) as refused:
        store.make_room(manifest("b", b"b" * 400))
    assert refused.value.reason == "ARTIFACT_TOO_LARGE"
    assert store.has(first.files[0].sha256)
    store.remove("a")
    store.make_room(manifest("b", b"b" * 400))
    assert not store.has(first.files[0].sha256)


def test_a_tenth_of_the_disk_stays_free(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = manifest("a", b"a" * 500)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10_000, 8_600, 1_400))
    with pytest.raises(ArtifactRefused) as refused:
        store.make_room(wanted)
    assert refused.value.reason == "STORE_FULL"
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10_000, 8_500, 1_500))
    store.make_room(wanted)


def test_refusals_outlive_the_process_and_do_not_pile_up(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REFUSALS", 5)
    store.refuse("0" * 64, ArtifactRefused("OP_NOT_ALLOWED", "no"))
    found = ModelStore(tmp_path / "store", quota_bytes=1).refusal("0" * 64)
    assert found is not None
    assert (found.reason, found.message) == ("OP_NOT_ALLOWED", "no")
    assert store.refusal("1" * 64) is None
    for number in range(module.MAX_REFUSALS + 5):
        store.refuse(f"{number:064x}", ArtifactRefused("OP_NOT_ALLOWED", "no"))
    assert len(list((tmp_path / "store" / "refused").iterdir())) == module.MAX_REFUSALS
