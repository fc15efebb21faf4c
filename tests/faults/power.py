"""A disk that loses power, under SQLite: what was not synced survives in part, in any order, torn at sector bounds.

Every file has the bytes that a reader sees and the bytes that would survive; a write goes to the former at once and to
the latter when it is synced. When the power goes, each sector of each unsynced write survives or not by the throw of a
coin.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import apsw

SECTOR_BYTES = 512
_names = itertools.count()


@dataclass
class Write:
    """Bytes that are on their way to the disk."""

    offset: int
    data: bytes


@dataclass
class Cut:
    """A truncation that is on its way to the disk."""

    size: int


@dataclass
class Content:
    """One file: what is seen, what is safe, and what is between the two in the order it came."""

    seen: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    pending: list[Write | Cut] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Seen at once, safe at the next sync."""
        _put(self.seen, offset, data)
        self.pending.append(Write(offset, data))

    def truncate(self, size: int) -> None:
        """The same for a truncation."""
        del self.seen[size:]
        self.pending.append(Cut(size))

    def sync(self) -> None:
        """What is seen is safe."""
        self.safe[:] = self.seen
        self.pending.clear()

    def survivor(self, chance: random.Random) -> Content:
        """The file as it is found when the power is back."""
        for change in self.pending:
            if isinstance(change, Cut):
                if chance.random() < 0.5:
                    del self.safe[change.size :]
                continue
            for start in range(0, len(change.data), SECTOR_BYTES):
                if chance.random() < 0.5:
                    _put(self.safe, change.offset + start, change.data[start : start + SECTOR_BYTES])
        return Content(bytearray(self.safe), self.safe)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    end = offset + len(data)
    if len(target) < end:
        target.extend(bytes(end - len(target)))
    target[offset:end] = data


class FragileDisk(apsw.VFS):
    """A file system in memory that SQLite knows under `name`; once `broken`, no sync succeeds."""

    def __init__(self) -> None:
        self.name = f"fragile-{next(_names)}"
        self.files: dict[str, Content] = {}
        self.broken = False
        super().__init__(self.name, base="")

    def lose_power(self, chance: random.Random, *, abandon: list[apsw.Connection]) -> None:
        """All that is not safe is lost, by chance; connections of before are let go without writing a byte."""
        survivors = {name: content.survivor(chance) for name, content in self.files.items()}
        self.files = {}
        for connection in abandon:
            connection.close(True)
        self.files = survivors

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> OpenFile:  # type: ignore[override]
        """See SQLite."""
        text = name.filename() if isinstance(name, apsw.URIFilename) else name or f"temporary-{next(_names)}"
        return OpenFile(self, self.files.setdefault(text, Content()))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Safe at once, which is the worst that it can be."""
        self.files.pop(filename, None)

    def xAccess(self, pathname: str, flags: int) -> bool:
        """Whether there is such a file."""
        return pathname in self.files and bool(self.files[pathname].seen)

    def xFullPathname(self, name: str) -> str:
        """There are no folders."""
        return name


class OpenFile:
    """One open file. Locks are void: there is one connection."""

    def __init__(self, disk: FragileDisk, content: Content) -> None:
        self._disk = disk
        self._content = content

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._content.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._content.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._content.truncate(size)

    def xSync(self, flags: int) -> None:
        if self._disk.broken:
            raise apsw.IOError("the disk says no")
        self._content.sync()

    def xFileSize(self) -> int:
        return len(self._content.seen)

    def xClose(self) -> None: ...

    def xLock(self, level: int) -> None: ...

    def xUnlock(self, level: int) -> None: ...

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return 0
