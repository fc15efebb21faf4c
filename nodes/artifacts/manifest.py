"""What belongs to a model, as the gateway says it; checked here again, since a node trusts no gateway with its disk."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from nodes.errors import ArtifactRefused

MAX_FILES = 64
MAX_PATH_CHARS = 200
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# Names that are devices on some systems, whatever follows their dot.
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class FileEntry:
    """One file: where it belongs, and the SHA-256 of its content."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything that belongs to a model; what is not listed is never read."""

    name: str
    task: str
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of a canonical text; the gateway computes the same."""
        lines = sorted(f"{file.sha256} {file.size_bytes} {file.path}" for file in self.files)
        return hashlib.sha256("\n".join([self.name, self.task, *lines]).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)

    def file(self, path: str) -> FileEntry | None:
        """The file of a path, if there is one."""
        return next((file for file in self.files if file.path == path), None)


def check(manifest: Manifest) -> None:
    """Refuse what is not spelled as a manifest must be.

    Raises:
        ArtifactRefused: NAME_INVALID, ARTIFACT_INVALID, ARTIFACT_PATH_ESCAPE or DIGEST_INVALID.
    """
    if not NAME.fullmatch(manifest.name) or not NAME.fullmatch(manifest.task):
        raise ArtifactRefused("NAME_INVALID", "Model and task need 1 to 64 of a-z, 0-9, '.', '_' and '-'.")
    if not 0 < len(manifest.files) <= MAX_FILES:
        raise ArtifactRefused("ARTIFACT_INVALID", f"A model has 1 to {MAX_FILES} files.")
    if len({file.path.lower() for file in manifest.files}) != len(manifest.files):
        raise ArtifactRefused("ARTIFACT_INVALID", "Two files have the same path, or paths that differ in case only.")
    for file in manifest.files:
        check_path(file.path)
        if not DIGEST.fullmatch(file.sha256):
            raise ArtifactRefused("DIGEST_INVALID", "A digest must be 64 of 0-9 and a-f.")
        if file.size_bytes <= 0:
            raise ArtifactRefused("ARTIFACT_INVALID", f"{file.path} is empty.")


def check_path(path: str) -> None:
    """Refuse a path that could lead out of a model's folder, or that is not spelled right.

    Raises:
        ArtifactRefused: ARTIFACT_PATH_ESCAPE or NAME_INVALID.
    """
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or ":" in path or ".." in parts:
        raise ArtifactRefused("ARTIFACT_PATH_ESCAPE", "A file's path must stay within its model's folder.")
    spelled = all(PATH_PART.fullmatch(part) and not DEVICES.fullmatch(part) for part in parts)
    if not spelled or len(path) > MAX_PATH_CHARS:
        raise ArtifactRefused("NAME_INVALID", "A path must be names of a-z, A-Z, 0-9, '.', '_' and '-', joined by '/'.")
