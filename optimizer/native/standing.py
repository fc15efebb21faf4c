"""Binding of the compiled solver that stays (``standing.c``, ``drift.c``): one instance, one drift after another.

Shape letters: q queries, n arms of the instance.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
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
from optimizer.native.whole import Answer, Bools, address

# How a drift ends: the answer is there; the instance has to be taken in anew; the column is none of worths.
FOLLOWED, ANEW, REFUSED = range(3)
_SAME = -1.0


class _Drift(ctypes.Structure):
    _fields_ = [
        ("eligible", ctypes.c_void_p),
        ("allowed", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        ("limit_j", ctypes.c_double),
        ("binds", ctypes.c_int32),
        ("arm", ctypes.c_int32),
        ("worth", ctypes.c_void_p),
        ("energy_j", ctypes.c_double),
        ("active", ctypes.c_void_p),
        ("actives", ctypes.c_int32),
        ("optimal", ctypes.c_int32),
        ("objective", ctypes.c_double),
        ("bound", ctypes.c_double),
        ("price", ctypes.c_double),
        ("explored", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Terms:
    """How an instance speaks of the problem that it was made of.

    Args:
        eligible_n: Which arm of the problem each one is.
        energy_n: Joules of each.
        allowed_nq: Whether it is fast enough for each query; None where every one is.
        weights_q: Weights that its worths hold already; None with any-right.
        scale: What one unit of its worths is in the problem's.
        limit_j: Limit of energy; None for none.
        binds: Whether energy is the first of its costs.
    """

    eligible_n: Sequence[int]
    energy_n: Floats
    allowed_nq: Bools | None
    weights_q: Floats | None
    scale: float
    limit_j: float | None
    binds: bool


@cache
def _entries() -> tuple[Any, Any, Any, Any, Any]:
    here, pointer, drift = library(), ctypes.c_void_p, ctypes.POINTER(_Drift)
    begin, show, answer = here.edgewise_standing_open, here.edgewise_standing_show, here.edgewise_standing_answer
    follow, close = here.edgewise_standing_drift, here.edgewise_standing_close
    begin.argtypes, begin.restype = [INSTANCE, pointer], pointer
    show.argtypes, show.restype = [pointer, OUTCOME], None
    answer.argtypes, answer.restype = [pointer, drift], None
    follow.argtypes, follow.restype = [pointer, drift], ctypes.c_int32
    close.argtypes, close.restype = [pointer], None
    return begin, show, answer, follow, close


class Standing:
    """A solved instance in the compiled solver's memory, until it is closed.

    Args:
        instance: What to solve; mode ``worst_case``.
        settings: How. The tree is kept in any case.
        terms: The problem behind it.

    Raises:
        NativeMissing: The compiled library is not built here.
    """

    def __init__(self, instance: Instance, settings: Settings, terms: Terms) -> None:
        begin, self._show, self._answer, self._follow, self._close = _entries()
        self._given, self._instance = packed(instance, settings), instance
        eligible_n = np.array(terms.eligible_n, dtype=np.int32)
        # Nothing is copied by the compiled code, so everything that it looks at again is held here.
        self._kept = eligible_n, terms.allowed_nq, terms.weights_q
        self._active_n = (ctypes.c_int32 * len(eligible_n))()
        self._drift = _Drift(
            eligible=address(eligible_n),
            allowed=None if terms.allowed_nq is None else address(terms.allowed_nq),
            weight=None if terms.weights_q is None else address(terms.weights_q),
            scale=terms.scale,
            limit_j=_SAME if terms.limit_j is None else terms.limit_j,
            binds=terms.binds,
            active=ctypes.addressof(self._active_n),
        )
        self._shown = ctypes.byref(self._drift)
        self._handle = begin(ctypes.byref(self._given.fields), address(np.ascontiguousarray(terms.energy_n)))
        self._answer(self._handle, self._shown)

    def answer(self) -> Answer:
        """The best set of the problem as it is now, in its terms."""
        drift = self._drift
        active = tuple(self._active_n[: drift.actives])
        return Answer(active, drift.objective, drift.bound, drift.explored, bool(drift.optimal), drift.price)

    def found(self) -> Found:
        """The same in the instance's terms, with the tree, copied."""
        out = empty_outcome(self._instance)
        self._show(self._handle, ctypes.byref(out.fields))
        return found_in(out, keep=True)

    def drift(self, arm: int, *, worth_q: Floats | None, energy_j: float | None) -> int:
        """Follow one arm's drift: one call, which checks, solves and answers.

        Args:
            arm: By index in the instance.
            worth_q: Its new column, contiguous; None where it has not changed.
            energy_j: Its new joules; None where they have not changed.

        Returns:
            `FOLLOWED`, `ANEW` or `REFUSED`; what was refused has changed nothing.
        """
        drift = self._drift
        drift.arm = arm
        drift.worth = None if worth_q is None else address(worth_q)
        drift.energy_j = _SAME if energy_j is None else energy_j
        return int(self._follow(self._handle, self._shown))

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
