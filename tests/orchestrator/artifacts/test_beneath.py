"""A folder that a stranger filled is read, and nothing beyond it; both ways of opening refuse the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts import beneath
from orchestrator.artifacts.folder import read_folder
from orchestrator.errors import RequestError
from tests.fakes.pushed import expert_folder

SECRET = b"secret of the operator"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.bin").write_bytes(SECRET)
    return expert_folder(tmp_path / "model")


def link(folder: Path) -> None:
    (folder / "w.bin").symlink_to(folder.parent / "secret")


def link_of_links(folder: Path) -> None:
    (folder / "a.bin").symlink_to("b.bin")
    (folder / "b.bin").symlink_to(folder.parent / "secret")


def link_to_folder(folder: Path) -> None:
    (folder / "sub").symlink_to(folder.parent / "outside")


def second_name(folder: Path) -> None:
    os.link(folder.parent / "secret", folder / "w.bin")


@pytest.mark.parametrize("plant", [link, link_of_links, link_to_folder, second_name])
def test_links_of_every_kind_are_refused(model: Path, plant: Callable[[Path], None]) -> None:
    assert len(read_folder(model).manifest.files) == 3
    plant(model)
    with pytest.raises(RequestError) as error:
        read_folder(model)
    assert error.value.reason == "ARTIFACT_PATH_ESCAPE"
    assert len(error.value.message) <= 200


@pytest.mark.parametrize("plant", [link, link_of_links, link_to_folder, second_name])
def test_control_plain_opening_would_have_read_the_secret(model: Path, plant: Callable[[Path], None]) -> None:
    plant(model)
    assert SECRET in [file.read_bytes() for file in [*model.glob("*.bin"), *model.glob("sub/*.bin")]]


@pytest.mark.parametrize("kernel", [True, False], ids=["openat2", "stepwise"])
@pytest.mark.parametrize(
    "path", ["../secret", "sub/w.bin", "sub/../../secret", "/etc/hostname", "w.bin", "x/../../secret"]
)
def test_no_path_leads_out(model: Path, path: str, kernel: bool) -> None:
    link(model)
    link_to_folder(model)
    (model / "x").mkdir()
    with beneath.opened(model) as folder, pytest.raises(RequestError) as error:
        beneath.open_file(folder, path, kernel=kernel)
    assert error.value.reason == "ARTIFACT_PATH_ESCAPE"


@pytest.mark.parametrize("kernel", [True, False], ids=["openat2", "stepwise"])
def test_plain_files_open_also_below_folders(model: Path, kernel: bool) -> None:
    (model / "data").mkdir()
    (model / "data" / "w.bin").write_bytes(b"weights")
    with beneath.opened(model) as folder:
        assert sorted(beneath.paths(folder)) == ["data/w.bin", "evidence.safetensors", "expert.json", "model.onnx"]
        with os.fdopen(beneath.open_file(folder, "data/w.bin", kernel=kernel), "rb") as stream:
            assert stream.read() == b"weights"


def test_a_pipe_is_refused_and_not_waited_for(model: Path) -> None:
    os.mkfifo(model / "w.bin")
    with pytest.raises(RequestError) as error:
        read_folder(model)
    assert error.value.reason == "ARTIFACT_INVALID"


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("{", "ARTIFACT_INVALID"),
        ("[]", "ARTIFACT_INVALID"),
        ("[" * 50_000, "ARTIFACT_INVALID"),
        ('{"task": "digits"}', "FIELD_REQUIRED"),
        ('{"name": "x"}', "FIELD_REQUIRED"),
        ('{"name": "../x", "task": "digits"}', "NAME_INVALID"),
    ],
)
def test_a_card_that_is_none_is_said_so(model: Path, card: str, reason: str) -> None:
    (model / "expert.json").write_text(card)
    with pytest.raises(RequestError) as error:
        read_folder(model)
    assert error.value.reason == reason


def test_both_sides_compute_the_same_digest(model: Path) -> None:
    from nodes.artifacts.manifest import FileEntry, Manifest

    mine = read_folder(model).manifest
    files = tuple(FileEntry(file.path, file.sha256, file.size_bytes) for file in mine.files)
    assert Manifest(mine.name, mine.task, files).digest == mine.digest
    assert Manifest(mine.name, "other", files).digest != mine.digest
