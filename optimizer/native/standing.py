"""Binding of the compiled solver that stays (``standing.c``): one instance, and the drift of one arm after another.

Shape letters: q queries, n arms, k set costs.
"""

from __future__ import annotations

import ctypes
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np

from optimizer.native.library import library
from optimizer.native.select import (
    INSTANCE,
    OUTCOME,
    Floats,
    Found,
    Instance,
    Settings,
    empty_outcome,
    found_in,
    packed,
)


@cache
def _entries() -> tuple[Any, Any, Any]:
    here, number, pointer = library(), ctypes.c_double, ctypes.c_void_p
    begin, drift, close = here.edgewise_standing_open, here.edgewise_standing_drift, here.edgewise_standing_close
    begin.argtypes, begin.restype = [INSTANCE, pointer, OUTCOME], pointer
    drift.argtypes, drift.restype = [pointer, ctypes.c_int32, pointer, pointer, number, OUTCOME], number
    close.argtypes, close.restype = [pointer], None
    return begin, drift, close


class Standing:
    """A solved instance in the compiled solver's memory, until it is closed.

    Args:
        instance: What to solve; mode ``worst_case``.
        settings: How. The tree is kept in any case.
        order_n: Which arms fill what room is left first, the smallest.

    Attributes:
        worth_q: Where a drift's new row of worths is to be put.
        cost_k: Where its new shares of the limits are to be put.

    Raises:
        NativeMissing: The compiled library is not built here.
    """

    def __init__(self, instance: Instance, settings: Settings, order_n: Floats) -> None:
        begin, self._drift, self._close = _entries()
        self._given, self._out = packed(instance, settings), empty_outcome(instance)
        self._shown = ctypes.byref(self._out.fields)
        # Where the compiled code finds what changes: asking numpy for an address takes longer than copying a row.
        self.worth_q, self.cost_k = np.zeros(instance.worth_nq.shape[1]), np.zeros(instance.cost_nk.shape[1])
        self._worth, self._cost = self.worth_q.ctypes.data, self.cost_k.ctypes.data
        self._handle = begin(ctypes.byref(self._given.fields), np.ascontiguousarray(order_n).ctypes.data, self._shown)

    def found(self, *, keep: bool) -> Found:
        """The answer to the instance as it is now; with its tree, copied, on request."""
        return found_in(self._out, keep=keep)

    def drift(self, arm: int, *, worth: bool, cost: bool, order: float) -> float:
        """Follow one arm's drift.

        Args:
            arm: By index in the instance.
            worth: Whether `worth_q` holds its new row.
            cost: Whether `cost_k` holds its new shares of the limits, of which none may exceed 1.
            order: Its new place in the order of filling.

        Returns:
            Worth of all arms together.
        """
        rows = self._worth if worth else None, self._cost if cost else None
        return float(self._drift(self._handle, arm, *rows, order, self._shown))

    def close(self) -> None:
        """Free its memory; may be called again."""
        handle, self._handle = self._handle, None
        if handle:
            self._close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()
