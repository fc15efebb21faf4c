"""Blobs by their SHA-256: chunks gather in a draft, and only what has the right digest gets the name.

Blocks on the disk; the event loop calls it through threads. One writer per blob at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RequestError

MAX_CHUNK_BYTES = 1 << 20
# Neither a hundred uploads at once nor one that trickles for ever: room is set aside for each from its start.
MAX_UPLOADS = 16
PATIENCE_S = 600.0
SLOWEST_BYTES_PER_S = 16 * 1024
# What stays free for everything else on the disk.
RESERVE_FRACTION = 0.1


@dataclass(frozen=True)
class Upload:
    """A blob that is on its way in."""

    size_bytes: int
    until_s: float


class BlobShelf:
    """A folder of blobs.

    Args:
        folder: Made when first needed; nobody else may write there.
        limit_bytes: What all blobs may take together.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, clock: Callable[[], float]) -> None:
        self._blobs, self._drafts = folder / "blobs", folder / "drafts"
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._uploads: dict[str, Upload] = {}

    def has(self, sha256: str) -> bool:
        """Whether a blob is here as a whole."""
        return (self._blobs / sha256).is_file()

    def arrived(self, sha256: str) -> int:
        """How much of a blob is here."""
        place = self._blobs if self.has(sha256) else self._drafts
        try:
            return (place / sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def put(self, sha256: str, size_bytes: int, offset: int, data: bytes) -> int:
        """Take the next bytes of a blob; the digest is checked with the last of them.

        Returns:
            What has arrived.

        Raises:
            RequestError: ARTIFACT_TOO_LARGE, STORE_FULL, UPLOAD_OFFSET, UPLOAD_TOO_SLOW or DIGEST_INVALID.
        """
        if self.has(sha256):
            return self.arrived(sha256)
        self._admit(sha256, size_bytes, offset)
        if offset + len(data) > size_bytes:
            raise RequestError("ARTIFACT_TOO_LARGE", "The file has more bytes than its manifest says.", field="data")
        with (self._drafts / sha256).open("ab") as draft:
            draft.write(data)
            if offset + len(data) == size_bytes:
                draft.flush()
                os.fsync(draft.fileno())
        if offset + len(data) == size_bytes:
            self._finish(sha256)
        return offset + len(data)

    def _admit(self, sha256: str, size_bytes: int, offset: int) -> None:
        self._drop_late(besides=sha256)
        arrived = self.arrived(sha256)
        if offset != arrived:
            raise RequestError(
                "UPLOAD_OFFSET",
                f"{arrived} bytes of this file have arrived; go on from there.",
                metadata={"offset": str(arrived)},
                field="offset",
            )
        upload = self._uploads.get(sha256)
        if upload is None:
            upload = self._begin(sha256, size_bytes)
        if upload.size_bytes != size_bytes:
            raise RequestError("FIELD_OUT_OF_RANGE", "size_bytes must be the same in every chunk.", field="size_bytes")
        if self._clock() > upload.until_s:
            self._drop(sha256)
            limit_s = PATIENCE_S + size_bytes / SLOWEST_BYTES_PER_S
            raise RequestError("UPLOAD_TOO_SLOW", f"The file took longer than {limit_s:.0f} s and was dropped.")

    def _begin(self, sha256: str, size_bytes: int) -> Upload:
        if len(self._uploads) >= MAX_UPLOADS:
            raise RequestError("STORE_FULL", f"{MAX_UPLOADS} uploads are under way; finish them first.")
        self._make_folders()
        if self.taken_bytes() + size_bytes > self._limit_bytes:
            raise RequestError(
                "ARTIFACT_TOO_LARGE",
                "The models would take more than this gateway keeps; remove some, or raise models.max_mib.",
                metadata={"limitBytes": str(self._limit_bytes)},
            )
        disk = shutil.disk_usage(self._blobs)
        if disk.free - size_bytes < disk.total * RESERVE_FRACTION:
            raise RequestError("STORE_FULL", "The gateway's disk would be less than a tenth free.")
        until_s = self._clock() + PATIENCE_S + size_bytes / SLOWEST_BYTES_PER_S
        self._uploads[sha256] = Upload(size_bytes, until_s)
        return self._uploads[sha256]

    def taken_bytes(self) -> int:
        """What blobs take, and what was promised to those on their way."""
        whole = sum(file.stat().st_size for file in self._blobs.iterdir()) if self._blobs.is_dir() else 0
        return whole + sum(upload.size_bytes for upload in self._uploads.values())

    def _make_folders(self) -> None:
        for folder in (self._blobs, self._drafts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _drop_late(self, *, besides: str) -> None:
        late = [name for name, one in self._uploads.items() if self._clock() > one.until_s and name != besides]
        for sha256 in late:
            self._drop(sha256)

    def _drop(self, sha256: str) -> None:
        self._uploads.pop(sha256, None)
        (self._drafts / sha256).unlink(missing_ok=True)

    def _finish(self, sha256: str) -> None:
        draft = self._drafts / sha256
        with draft.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            self._drop(sha256)
            raise RequestError("DIGEST_INVALID", "The content does not have the digest that was announced for it.")
        draft.replace(self._blobs / sha256)
        self._uploads.pop(sha256, None)
        folder = os.open(self._blobs, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Bytes of a blob; none where it is not here or ends before."""
        try:
            with (self._blobs / sha256).open("rb") as stream:
                stream.seek(offset)
                return stream.read(length)
        except FileNotFoundError:
            return b""

    def keep_only(self, wanted: Iterable[str]) -> None:
        """Delete every blob that no model has any more; what came just now stays: its push may be under way."""
        kept, now_unix_s = set(wanted), time.time()
        for file in self._blobs.iterdir() if self._blobs.is_dir() else ():
            if file.name not in kept and now_unix_s - file.stat().st_mtime > PATIENCE_S:
                file.unlink(missing_ok=True)
