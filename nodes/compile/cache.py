"""Where compiled files are kept: sealed, one folder for each key, the longest unused ones leaving first.

::

    ROOT/KEY/                   KEY is the sha256 of what the files were made for
        seal.json               that, facts about the result, digests of the files, and the seal over all of it
        model.onnx, …
    ROOT/KEY.lock               who builds it
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from nodes.compile.errors import CompileError, EngineNotLocal
from nodes.compile.flight import alone
from nodes.compile.seal import canonical, seal

FORMAT = 1
SEAL_FILE = "seal.json"
DRAFT_PREFIX = ".draft-"
# A draft of a builder that was killed; no build takes longer.
STALE_DRAFT_S = 24 * 3600.0

Facts = Mapping[str, Any]
# Makes the files in a folder; returns the name of the one to load, and facts about it.
Maker = Callable[[Path], tuple[str, dict[str, Any]]]

log = structlog.get_logger("nodes.compile")


@dataclass(frozen=True)
class Entry:
    """One compiled file and what lies beside it, authenticated.

    Attributes:
        purpose: What it was made for.
        facts: What its maker found out.
        main: The file to load.
        digests: sha256 of every file by its path in the folder.
        made: Whether it was made now.
    """

    folder: Path
    purpose: Facts
    facts: Facts
    main: str
    digests: Mapping[str, str]
    size_bytes: int
    made: bool = False

    @property
    def file(self) -> Path:
        """The file to load."""
        return self.folder / self.main

    @property
    def beside(self) -> dict[str, str]:
        """Digests of all other files."""
        return {name: digest for name, digest in self.digests.items() if name != self.main}


class Cache:
    """Compiled files of this node.

    Args:
        root: Folder; made where it is missing.
        key: The node's key.
        quota_bytes: What all files may take together.
    """

    def __init__(self, root: Path, key: bytes, *, quota_bytes: int) -> None:
        self._root = root
        self._key = key
        self._quota_bytes = quota_bytes
        self._used: set[str] = set()
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CompileError(f"{root} cannot be made: {(error.strerror or 'unknown cause').lower()}") from error

    def obtain(self, purpose: Facts, make: Maker, *, on_wait: Callable[[], None] = lambda: None) -> Entry:
        """The entry for a purpose: the kept one if its seal holds, else made now, once however many ask.

        Raises:
            CompileError: It cannot be made, or kept.
        """
        name = key_of(purpose)
        with alone(self._root / f"{name}.lock", on_wait=on_wait):
            found = self._kept(name, purpose) or self._make(name, purpose, make)
        self._used.add(name)
        self._drop_superseded(purpose, name)
        self.shrink()
        return found

    def open(self, name: str, purpose: Facts | None = None) -> Entry:
        """The entry of a name, authenticated.

        Args:
            purpose: What it must have been made for; None takes its own word, which the seal covers.

        Raises:
            EngineNotLocal: It is damaged, was made elsewhere, or for something else.
        """
        folder = self._root / name
        try:
            written = json.loads((folder / SEAL_FILE).read_bytes())
            claimed, digests = dict(written["about"]), dict(written["about"]["digests"])
            about = Entry(folder, claimed["purpose"], claimed["facts"], claimed["main"], digests, claimed["size_bytes"])
            files = {path: _inside(folder, path) for path in digests}
            sealed = str(written["seal"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineNotLocal(f"{name[:12]} has no seal that can be read") from error
        if purpose is not None and canonical(about.purpose) != canonical(purpose):
            raise EngineNotLocal(f"{name[:12]} was made for something else, such as another version")
        if key_of(about.purpose) != name:
            raise EngineNotLocal(f"{name[:12]} lies where something else belongs")
        self._authenticate(name, claimed, files, sealed)
        return about

    def _authenticate(self, name: str, about: Facts, files: Mapping[str, Path], sealed: str) -> None:
        # Imported where it is used, so that nobody compares seals in another way.
        from hmac import compare_digest

        try:
            found = seal(self._key, about, files)
        except OSError as error:
            raise EngineNotLocal(f"{name[:12]} lacks a file: {(error.strerror or 'unknown cause').lower()}") from error
        if not compare_digest(found, sealed):
            raise EngineNotLocal(f"{name[:12]} was changed, or another node made it")

    def newest(self, like: Facts, file: str) -> Path | None:
        """A file of the last used entry whose purpose has these fields; None where no entry has both."""
        for name in reversed(self.names()):
            try:
                entry = self.open(name)
            except EngineNotLocal:
                continue
            if file in entry.digests and like.items() <= entry.purpose.items():
                return entry.folder / file
        return None

    def names(self) -> list[str]:
        """All entries, the longest unused first."""
        folders = [folder for folder in self._root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        return [folder.name for folder in sorted(folders, key=_used_unix_s)]

    def verify(self) -> Iterator[tuple[str, Entry | EngineNotLocal]]:
        """Every entry, or what is wrong with it; nothing is deleted."""
        for name in self.names():
            try:
                yield name, self.open(name)
            except EngineNotLocal as problem:
                yield name, problem

    def shrink(self, quota_bytes: int | None = None) -> list[str]:
        """Delete the longest unused entries, never those in use here, until the rest fits; returns their names."""
        limit_bytes = self._quota_bytes if quota_bytes is None else quota_bytes
        sizes = {name: _size_bytes(self._root / name) for name in self.names()}
        gone: list[str] = []
        for name in sizes:
            if sum(sizes[other] for other in sizes if other not in gone) <= limit_bytes:
                break
            if name not in self._used:
                self._delete(name)
                gone.append(name)
        if gone:
            log.info("compiled files evicted", entries=len(gone), quota_bytes=limit_bytes)
        return gone

    def delete(self, name: str) -> None:
        """Delete one entry."""
        self._used.discard(name)
        self._delete(name)

    def _kept(self, name: str, purpose: Facts) -> Entry | None:
        if not (self._root / name).exists():
            return None
        try:
            entry = self.open(name, purpose)
        except EngineNotLocal as problem:
            log.warning("compiled file refused", reason=problem.reason, why=problem.message, then="deleted, made anew")
            self._delete(name)
            return None
        os.utime(self._root / name / SEAL_FILE)
        return entry

    def _make(self, name: str, purpose: Facts, make: Maker) -> Entry:
        self._clear_drafts()
        draft = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=self._root))
        try:
            main, facts = make(draft)
            entry = self._sealed(draft, purpose, main, facts)
            draft.rename(self._root / name)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "no space is left" if full else (error.strerror or "unknown cause").lower()
            raise CompileError(f"{self._root} cannot keep what was compiled: {why}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return Entry(self._root / name, purpose, facts, main, entry.digests, entry.size_bytes, made=True)

    def _sealed(self, draft: Path, purpose: Facts, main: str, facts: dict[str, Any]) -> Entry:
        files = {str(path.relative_to(draft)): path for path in sorted(draft.rglob("*")) if path.is_file()}
        digests = {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        size_bytes = sum(path.stat().st_size for path in files.values())
        if size_bytes > self._quota_bytes:
            raise CompileError(f"a compiled file takes {size_bytes} bytes, more than the whole quota; raise it")
        about = {
            "format": FORMAT,
            "purpose": dict(purpose),
            "facts": facts,
            "main": main,
            "digests": digests,
            "size_bytes": size_bytes,
        }
        written = {"about": about, "seal": seal(self._key, about, files)}
        (draft / SEAL_FILE).write_text(json.dumps(written, indent=2, sort_keys=True))
        return Entry(draft, purpose, facts, main, digests, size_bytes)

    def _drop_superseded(self, purpose: Facts, name: str) -> None:
        """Delete what the same purpose left behind under another version of its runtime or driver."""
        subject = {key: value for key, value in purpose.items() if key not in ("version", "device")}
        for other in self.names():
            if other == name or other in self._used:
                continue
            try:
                found = json.loads((self._root / other / SEAL_FILE).read_bytes())["about"]["purpose"]
                same = {key: value for key, value in found.items() if key not in ("version", "device")} == subject
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                same = False  # Its own turn will find it damaged.
            if same and found.get("version") != purpose.get("version"):
                log.info("compiled file superseded", was=found.get("version"), now=purpose.get("version"))
                self._delete(other)

    def _clear_drafts(self) -> None:
        for draft in self._root.glob(f"{DRAFT_PREFIX}*"):
            if time.time() - draft.stat().st_mtime > STALE_DRAFT_S:
                shutil.rmtree(draft, ignore_errors=True)

    def _delete(self, name: str) -> None:
        # Renamed first, so that nobody opens an entry that is half gone.
        grave = self._root / f"{DRAFT_PREFIX}{name[:16]}-{time.monotonic_ns()}"
        try:
            (self._root / name).rename(grave)
        except FileNotFoundError:
            return
        if grave.is_dir() and not grave.is_symlink():
            shutil.rmtree(grave, ignore_errors=True)
        else:
            grave.unlink()


def key_of(purpose: Facts) -> str:
    """The name of the entry for a purpose."""
    return sha256(canonical(purpose)).hexdigest()


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute() or path.is_symlink():
        raise ValueError(name)
    return path


def _used_unix_s(folder: Path) -> float:
    try:
        return (folder / SEAL_FILE).stat().st_mtime
    except OSError:
        return 0.0


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
