"""What tests of compiled code say where there is none."""

from __future__ import annotations

import pytest

from optimizer.native import library

needs_native = pytest.mark.skipif(
    not library.available(), reason="not run: no compiled library (no C compiler when it was installed)"
)
