"""A bundle as one file: an uncompressed tar whose bytes depend on nothing but what is in it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.bundle.manifest import MANIFEST, BundledFile, Manifest, parse_manifest
from deploy.errors import DeployError

CHUNK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 1 << 20
MODE = 0o644
# As of the wheels in it.
EPOCH_S = 315_532_800


@dataclass(frozen=True)
class Bundle:
    """A bundle on this machine.

    Attributes:
        sha256: Of the whole file.
    """

    file: Path
    manifest: Manifest
    sha256: str
    size_bytes: int

    @property
    def release(self) -> str:
        """What an installation of it is called; another content, another name."""
        digest = hashlib.sha256(self.manifest.text()).hexdigest()
        return f"{self.manifest.version}-{digest[:12]}"


def digest_file(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(files: Mapping[str, Path]) -> tuple[BundledFile, ...]:
    """Path, digest and size of each file, by path."""
    return tuple(
        BundledFile(path=path, sha256=digest_file(files[path]), size_bytes=files[path].stat().st_size)
        for path in sorted(files)
    )


def write(to: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Write a bundle; `files` are those of the manifest, by their path in it.

    The file appears whole or not at all.
    """
    draft = to.with_name(f".{to.name}.part")
    try:
        with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as archive:
            text = manifest.text()
            archive.addfile(_entry(MANIFEST, len(text)), io.BytesIO(text))
            for entry in manifest.files:
                with files[entry.path].open("rb") as stream:
                    archive.addfile(_entry(entry.path, entry.size_bytes), stream)
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)
    return Bundle(to, manifest, digest_file(to), to.stat().st_size)


def read(file: Path) -> Bundle:
    """Open a bundle and check every file in it against the manifest.

    Raises:
        DeployError: It cannot be read, or something in it is not as the manifest says.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            manifest = _check(archive, file)
        return Bundle(file, manifest, digest_file(file), file.stat().st_size)
    except (OSError, tarfile.TarError) as error:
        why = f"{file} cannot be read: {error}"
        raise DeployError("bundle refused", why, "make it anew: `edgewise deploy bundle`") from error


def _check(archive: tarfile.TarFile, file: Path) -> Manifest:
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MAX_MANIFEST_BYTES:
        raise _damaged(file, f"it does not begin with {MANIFEST}")
    stream = archive.extractfile(first)
    manifest = parse_manifest(stream.read() if stream else b"", file)
    wanted = {entry.path: entry for entry in manifest.files}
    for member in archive:
        if member.name == MANIFEST:
            continue
        entry = wanted.pop(member.name, None)
        if entry is None or not member.isreg():
            raise _damaged(file, f"{member.name} is not in its manifest")
        if _digest(archive, member) != entry.sha256:
            raise _damaged(file, f"{member.name} is not what its manifest says")
    if wanted:
        raise _damaged(file, f"{min(wanted)} is missing")
    return manifest


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream, state = archive.extractfile(member), hashlib.sha256()
    while stream is not None and (chunk := stream.read(CHUNK_BYTES)):
        state.update(chunk)
    return state.hexdigest()


def _entry(name: str, size_bytes: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size_bytes, EPOCH_S, MODE
    return entry


def _damaged(file: Path, why: str) -> DeployError:
    return DeployError("bundle refused", f"{file}: {why}", "copy it again, or make it anew: `edgewise deploy bundle`")
