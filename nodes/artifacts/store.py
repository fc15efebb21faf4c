"""Models on a node's disk: blobs by their SHA-256, and what is installed as one small file each.

A blob gets its name only with the right digest and on stable storage; a model counts as installed only once all of its
blobs have. What is installed is never evicted; what was removed stays until its room is wanted, oldest use first.
Blocks on the disk; one caller at a time.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.errors import ArtifactRefused

# What stays free for everything else on the disk.
RESERVE_FRACTION = 0.1
MAX_REFUSALS = 256

log = structlog.get_logger("nodes.models")


class ModelStore:
    """A folder that nobody but this agent writes to.

    Args:
        folder: Made when first needed.
        quota_bytes: What blobs may take together.
    """

    def __init__(self, folder: Path, *, quota_bytes: int) -> None:
        self._folder = folder
        self._blobs, self._drafts = folder / "blobs", folder / "drafts"
        self._installed, self._refused = folder / "installed", folder / "refused"
        self._quota_bytes = quota_bytes

    # ---- blobs

    def has(self, sha256: str) -> bool:
        """Whether a blob is here as a whole."""
        return (self._blobs / sha256).is_file()

    def arrived(self, sha256: str) -> int:
        """How much of a blob that is on its way is here."""
        try:
            return (self._drafts / sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def make_room(self, manifest: Manifest, *, besides: Collection[str] = ()) -> None:
        """See that a model's missing blobs fit; evicts blobs that nothing installed needs, oldest use first.

        Args:
            besides: Blobs that must stay, too.

        Raises:
            ArtifactRefused: ARTIFACT_TOO_LARGE or STORE_FULL.
        """
        for folder in (self._blobs, self._drafts, self._installed, self._refused):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sizes = {file.sha256: file.size_bytes for file in manifest.files}
        self._drop_drafts(sizes)
        missing_bytes = sum(size for sha256, size in sizes.items() if not self.has(sha256))
        kept = {*sizes, *besides, *(file.sha256 for other in self.installed() for file in other.files)}
        self._evict(missing_bytes, kept)
        if missing_bytes + self._taken_bytes() > self._quota_bytes:
            text = f"The model needs {manifest.size_bytes} bytes; the node keeps {self._quota_bytes} in all."
            raise ArtifactRefused("ARTIFACT_TOO_LARGE", text)
        disk = shutil.disk_usage(self._blobs)
        arriving_bytes = missing_bytes - sum(self.arrived(sha256) for sha256 in sizes)
        if disk.free - arriving_bytes < disk.total * RESERVE_FRACTION:
            raise ArtifactRefused("STORE_FULL", "The node's disk would be less than a tenth free.")

    def _drop_drafts(self, wanted: Collection[str]) -> None:
        for draft in self._drafts.iterdir():
            if draft.name not in wanted:
                draft.unlink(missing_ok=True)

    def _evict(self, missing_bytes: int, kept: Collection[str]) -> None:
        loose = [file for file in self._blobs.iterdir() if file.name not in kept]
        for file in sorted(loose, key=lambda file: file.stat().st_mtime):
            if missing_bytes + self._taken_bytes() <= self._quota_bytes:
                return
            log.info("blob evicted", sha256=file.name[:12])
            file.unlink(missing_ok=True)

    def _taken_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._blobs.iterdir())

    def append(self, sha256: str, offset: int, data: bytes) -> None:
        """The next bytes of a blob.

        Raises:
            ArtifactRefused: ARTIFACT_INVALID where they are not the next ones.
        """
        if offset != self.arrived(sha256):
            raise ArtifactRefused("ARTIFACT_INVALID", "The gateway sent bytes out of order.")
        with (self._drafts / sha256).open("ab") as draft:
            draft.write(data)

    def finish(self, sha256: str) -> None:
        """Give a blob its name, if its digest is right.

        Raises:
            ArtifactRefused: DIGEST_INVALID; the draft is gone then.
        """
        draft = self._drafts / sha256
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            draft.unlink()
            raise ArtifactRefused("DIGEST_INVALID", "A file does not have the digest that its manifest gives.")
        draft.replace(self._blobs / sha256)
        _sync(self._blobs)

    def read(self, sha256: str) -> bytes:
        """A blob, verified.

        Raises:
            ArtifactRefused: as `mapped`.
        """
        with self.mapped(sha256) as view:
            return bytes(view)

    @contextmanager
    def mapped(self, sha256: str) -> Iterator[memoryview]:
        """A blob's bytes without copying them, verified; the file stays mapped as long as anybody looks at it.

        Raises:
            ArtifactRefused: DIGEST_INVALID where the file is a link, has a second name, or is not what it was.
        """
        try:
            descriptor = os.open(self._blobs / sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _spoiled(sha256) from error
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size == 0:
                raise _spoiled(sha256)
            os.utime(descriptor)
            view = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        if hashlib.sha256(view).hexdigest() != sha256:
            raise _spoiled(sha256)
        yield view

    # ---- models

    def install(self, manifest: Manifest) -> None:
        """A model is installed; it replaces one of the same name."""
        self._write(self._installed / f"{manifest.name}.json", asdict(manifest))

    def installed(self) -> list[Manifest]:
        """All installed models; a record that cannot be read, or lacks a blob, is none."""
        found = (_manifest(path) for path in sorted(self._installed.glob("*.json")))
        return [one for one in found if one is not None and all(self.has(file.sha256) for file in one.files)]

    def remove(self, name: str) -> None:
        """A model is installed no longer; its blobs stay as long as there is room."""
        (self._installed / f"{name}.json").unlink(missing_ok=True)

    def refuse(self, digest: str, refused: ArtifactRefused) -> None:
        """Remember that a model, by its manifest's digest, is not to be tried again."""
        self._refused.mkdir(mode=0o700, parents=True, exist_ok=True)
        oldest = sorted(self._refused.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in oldest[: max(0, len(oldest) - MAX_REFUSALS + 1)]:
            path.unlink(missing_ok=True)
        self._write(self._refused / f"{digest}.json", {"reason": refused.reason, "message": refused.message})

    def refusal(self, digest: str) -> ArtifactRefused | None:
        """Why a model is not to be tried again; None where it may be."""
        try:
            told = json.loads((self._refused / f"{digest}.json").read_bytes())
            return ArtifactRefused(str(told["reason"]), str(told["message"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        draft = path.with_suffix(".tmp")
        with draft.open("w") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
        _sync(path.parent)


def _manifest(path: Path) -> Manifest | None:
    try:
        told = json.loads(path.read_bytes())
        return Manifest(told["name"], told["task"], tuple(FileEntry(**file) for file in told["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("record of a model cannot be read", file=path.name, why=type(error).__name__)
        return None


def _spoiled(sha256: str) -> ArtifactRefused:
    return ArtifactRefused("DIGEST_INVALID", f"Blob {sha256[:12]} on the node is not what was installed.")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
