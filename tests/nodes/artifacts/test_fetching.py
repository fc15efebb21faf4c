"""Pieces are asked for one at a time, sized by how long they take, and asked for again from where they broke off."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from nodes.agent import messages as m
from nodes.artifacts.fetching import Fetcher, StreamGone
from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.artifacts.pace import FIRST_BYTES, LARGEST_BYTES, SMALLEST_BYTES, TARGET_S, Pace
from nodes.artifacts.store import ModelStore
from nodes.errors import ArtifactRefused

DATA = bytes(range(256)) * 2048
SHA256 = hashlib.sha256(DATA).hexdigest()
MODEL = Manifest("m", "digits", (FileEntry("w.bin", SHA256, len(DATA)),))


class Sender:
    """A gateway that answers every wish at once, until it breaks off."""

    def __init__(self, content: bytes = DATA, *, pieces: int = 1_000) -> None:
        self.content, self.pieces = content, pieces
        self.asked: list[tuple[int, int]] = []
        self.fetcher: Fetcher | None = None

    async def send(self, event: m.Event) -> None:
        assert isinstance(event, m.ChunkWanted)
        assert self.fetcher is not None
        if len(self.asked) == self.pieces:
            raise StreamGone
        self.asked.append((event.offset, event.length))
        data = self.content[event.offset : event.offset + event.length]
        asyncio.get_running_loop().call_soon(self.fetcher.take, m.ModelChunk(event.sha256, event.offset, data))


async def fetch(store: ModelStore, sender: Sender) -> None:
    store.make_room(MODEL)
    sender.fetcher = Fetcher(store, sender.send)

    async def progress(_: int) -> None:
        return None

    await sender.fetcher.fetch(MODEL, progress)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", quota_bytes=1 << 30)


async def test_a_broken_transfer_goes_on_where_it_stopped(store: ModelStore) -> None:
    first, second = Sender(pieces=3), Sender()
    with pytest.raises(StreamGone):
        await fetch(store, first)
    part = store.arrived(SHA256)
    assert part == sum(length for _, length in first.asked)
    await fetch(store, second)
    assert second.asked[0][0] == part
    assert sum(length for _, length in first.asked + second.asked) == len(DATA)
    assert store.read(SHA256) == DATA


async def test_other_bytes_and_no_bytes_are_refused(store: ModelStore) -> None:
    with pytest.raises(ArtifactRefused) as refused:
        await fetch(store, Sender(DATA[::-1]))
    assert refused.value.reason == "DIGEST_INVALID"
    with pytest.raises(ArtifactRefused) as refused:
        await fetch(store, Sender(b""))
    assert refused.value.reason == "MODEL_FAILED"
    # Nothing of either is in the way of the right one.
    await fetch(store, Sender())
    assert store.has(SHA256)


def test_pieces_grow_on_a_quick_wire_and_shrink_on_a_slow_one() -> None:
    pace = Pace()
    for _ in range(10):
        pace.observe(0.1)  # A long way, but quick: only what comes on top of it counts.
    assert pace.piece_bytes == LARGEST_BYTES
    for _ in range(10):
        pace.observe(0.1 + 3 * TARGET_S)
    assert pace.piece_bytes == SMALLEST_BYTES
    assert SMALLEST_BYTES < FIRST_BYTES < LARGEST_BYTES


@pytest.mark.parametrize("bytes_per_s", [1e6, 1e7, 1e9])
def test_a_piece_settles_near_its_share_of_the_wire(bytes_per_s: float) -> None:
    pace, round_trip_s = Pace(), 0.03
    for _ in range(50):
        pace.observe(round_trip_s + pace.piece_bytes / bytes_per_s)
    assert pace.piece_bytes / bytes_per_s <= 4 * TARGET_S or pace.piece_bytes == SMALLEST_BYTES
