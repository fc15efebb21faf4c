"""The gateway's blobs: held to their size, their time and their place; nothing half, nothing for ever."""

from __future__ import annotations

import hashlib
from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.artifacts.blobs import MAX_UPLOADS, PATIENCE_S, SLOWEST_BYTES_PER_S, BlobShelf
from orchestrator.artifacts.register import Register
from orchestrator.errors import EdgewiseError, RequestError

LIMIT_BYTES = 10_000
DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()
Usage = namedtuple("Usage", "total used free")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf(tmp_path: Path, clock: Clock) -> BlobShelf:
    return BlobShelf(tmp_path, limit_bytes=LIMIT_BYTES, clock=clock)


def refusal(shelf: BlobShelf, sha256: str, size_bytes: int, offset: int, data: bytes) -> str:
    with pytest.raises(RequestError) as error:
        shelf.put(sha256, size_bytes, offset, data)
    return error.value.reason


def test_a_blob_comes_in_pieces_and_goes_on_after_a_restart(shelf: BlobShelf, tmp_path: Path, clock: Clock) -> None:
    assert shelf.put(SHA256, len(DATA), 0, DATA[:100]) == 100
    again = BlobShelf(tmp_path, limit_bytes=LIMIT_BYTES, clock=clock)
    assert (again.has(SHA256), again.arrived(SHA256)) == (False, 100)
    assert refusal(again, SHA256, len(DATA), 0, DATA) == "UPLOAD_OFFSET"
    assert again.put(SHA256, len(DATA), 100, DATA[100:]) == len(DATA)
    assert again.read(SHA256, 10, 5) == DATA[10:15]
    # Who sends it again is told that it is here.
    assert again.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_a_trickle_is_dropped_when_its_time_is_up(shelf: BlobShelf, clock: Clock) -> None:
    shelf.put(SHA256, len(DATA), 0, DATA[:1])
    clock.now_s = PATIENCE_S + len(DATA) / SLOWEST_BYTES_PER_S - 1.0
    shelf.put(SHA256, len(DATA), 1, DATA[1:2])
    clock.now_s += 2.0
    assert refusal(shelf, SHA256, len(DATA), 2, DATA[2:3]) == "UPLOAD_TOO_SLOW"
    assert shelf.arrived(SHA256) == 0
    assert shelf.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_uploads_that_never_end_do_not_keep_their_room(shelf: BlobShelf, clock: Clock) -> None:
    for number in range(MAX_UPLOADS):
        shelf.put(f"{number:064x}", 100, 0, b"x")
    assert refusal(shelf, SHA256, len(DATA), 0, DATA) == "STORE_FULL"
    clock.now_s = PATIENCE_S + 10.0
    assert shelf.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_room_is_set_aside_from_the_start(shelf: BlobShelf) -> None:
    shelf.put("0" * 64, 9_500, 0, b"x")
    assert refusal(shelf, SHA256, len(DATA), 0, DATA) == "ARTIFACT_TOO_LARGE"


def test_a_tenth_of_the_disk_stays_free(shelf: BlobShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10_000, 8_500, 1_500))
    assert refusal(shelf, SHA256, len(DATA), 0, DATA) == "STORE_FULL"
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10_000, 7_500, 2_500))
    assert shelf.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_what_no_model_has_goes_once_its_push_cannot_be_under_way(shelf: BlobShelf, tmp_path: Path) -> None:
    import os

    shelf.put(SHA256, len(DATA), 0, DATA)
    shelf.keep_only([])
    assert shelf.has(SHA256)
    os.utime(tmp_path / "blobs" / SHA256, (0, 0))
    shelf.keep_only([SHA256])
    assert shelf.has(SHA256)
    shelf.keep_only([])
    assert not shelf.has(SHA256)


def test_a_register_that_cannot_be_read_stops_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text('{"version": 1, "models": [{}]}')
    with pytest.raises(EdgewiseError) as error:
        Register(tmp_path / "models.json")
    assert error.value.reason == "STORE_CORRUPT"
