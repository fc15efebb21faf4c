"""Files that may not be opened, also where tests run as root, whom no file mode stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on no file of this name can be opened."""
    real = os.open

    def refuse(path: str | Path, flags: int, *rest: int) -> int:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
