"""A node whose sealing is switched off, else the real one: what every scan for users' data must notice.

``python -m tests.fakes.unsealed_node run ...``, as ``python -m nodes run ...``.
"""

from __future__ import annotations

import sys

from nodes.cli import main
from nodes.personal.sealing import KeySeal


def leave_open() -> None:
    """Have every seal of this process hand back what it is given."""
    for method in ("close", "open"):
        setattr(KeySeal, method, _same)


def _same(seal: KeySeal, data: bytes, role: str) -> bytes:
    return data


if __name__ == "__main__":
    leave_open()
    sys.exit(main())
