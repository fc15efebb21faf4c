"""What can go wrong in a store.

::

    StoreError              an EdgewiseError, so that it leaves the gateway typed
    ├── StoreFull           no space; nothing of the batch was kept, the next one may fit
    ├── StoreFailed         the disk or the server failed; nothing more is taken until a restart
    ├── StoreCorrupt        a row or a file is not what was written; a copy was put aside
    ├── StoreInUse          another gateway has this folder
    ├── StoreNewer          a newer Edgewise wrote it
    └── StoreUnsafe         this SQLite can corrupt databases
"""

from __future__ import annotations

from orchestrator.errors import EdgewiseError

RETRY_AFTER_S = 1.0


class StoreError(EdgewiseError):
    """Root of what a store raises."""


class StoreFull(StoreError):
    """There is no space left; nothing of the batch was kept."""

    def __init__(self) -> None:
        super().__init__(
            "STORE_FULL",
            "The gateway's disk is full; make room, then call again.",
            retry_after_s=RETRY_AFTER_S,
        )


class StoreFailed(StoreError):
    """The disk or the server failed: a failed sync is never repeated as if it could succeed."""

    def __init__(self) -> None:
        super().__init__("STORE_FAILED", "The gateway cannot write its books; its operator must restart it.")


class StoreCorrupt(StoreError):
    """A row or the file is not what was written."""

    def __init__(self, what: str, copy: str = "") -> None:
        told = f" A copy is at {copy}." if copy else ""
        super().__init__("STORE_CORRUPT", f"The gateway's books are damaged ({what}).{told}")
        self.what = what
        self.copy = copy


class StoreInUse(StoreError):
    """Another process has the folder."""

    def __init__(self, path: str) -> None:
        super().__init__("STORE_IN_USE", f"Another gateway uses {path}; stop it or choose another state_dir.")


class StoreNewer(StoreError):
    """A newer Edgewise wrote it; what this one does not know it would lose."""

    def __init__(self, found: int, known: int, written_by: str = "") -> None:
        by = f" by Edgewise {written_by}" if written_by else ""
        super().__init__(
            "STORE_NEWER",
            f"The books were written{by} with schema {found}; this Edgewise knows {known}: run the newer one, or"
            " restore the copy that was made before it migrated.",
            metadata={"found": str(found), "known": str(known)},
        )


class StoreUnsafe(StoreError):
    """The SQLite library has the WAL-reset defect."""

    def __init__(self, version: str) -> None:
        super().__init__(
            "STORE_UNSAFE",
            f"SQLite {version} can corrupt a database in WAL mode; 3.51.3 or newer is needed: pip install -U apsw.",
        )
