"""Binding of the compiled exact solver (``select.c``): arrays in, arrays out.

Shape letters: q queries, n arms, k set costs, t tokens, d dual vectors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.native.library import library

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_DOUBLES = ctypes.POINTER(ctypes.c_double)
_INTS = ctypes.POINTER(ctypes.c_int32)
STOP = ctypes.CFUNCTYPE(ctypes.c_int32)
NEVER = STOP()


class _Instance(ctypes.Structure):
    _fields_ = [
        ("arms", ctypes.c_int32),
        ("queries", ctypes.c_int32),
        ("costs", ctypes.c_int32),
        ("any_right", ctypes.c_int32),
        ("worth", ctypes.c_void_p),
        ("joules", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("cost", ctypes.c_void_p),
        ("slack", ctypes.c_double),
        ("tolerance", ctypes.c_double),
        ("gap", ctypes.c_double),
        ("node_limit", ctypes.c_int64),
        ("should_stop", STOP),
        ("prove", ctypes.c_int32),
        ("start_count", ctypes.c_int32),
        ("start", ctypes.c_void_p),
        ("old_kind", ctypes.c_void_p),
        ("old_index", ctypes.c_void_p),
        ("old_dual", ctypes.c_void_p),
        ("old_tokens", ctypes.c_int64),
        ("old_searched", ctypes.c_int64),
    ]


class _Outcome(ctypes.Structure):
    _fields_ = [
        ("active", ctypes.c_void_p),
        ("price", ctypes.c_void_p),
        ("objective", ctypes.c_double),
        ("bound", ctypes.c_double),
        ("explored", ctypes.c_int64),
        ("evaluated", ctypes.c_int64),
        ("stopped", ctypes.c_int32),
        ("dual_size", ctypes.c_int32),
        ("tokens", ctypes.c_int64),
        ("duals", ctypes.c_int64),
        ("kind", _INTS),
        ("index", _INTS),
        ("dual", _DOUBLES),
    ]


INSTANCE, OUTCOME = ctypes.POINTER(_Instance), ctypes.POINTER(_Outcome)


@dataclass(frozen=True)
class Tree:
    """The search tree of a run, see `optimizer.selection.proof`.

    Args:
        kind_t: Token kinds.
        index_t: Arm or dual vector of each token.
        dual_d: Dual vectors as the compiled code lays them out.
    """

    kind_t: Ints
    index_t: Ints
    dual_d: Floats


@dataclass(frozen=True)
class Instance:
    """What the compiled solver takes; every arm fits by itself, and limits are scaled to 1.

    Args:
        worth_nq: Weighted worth, or with `any_right` probabilities.
        cost_nk: Share of each limit that an arm takes.
        joules_nq: Weighted joules over the mean limit; None in mode ``worst_case``.
        weight_q: Weights, with `any_right`.
        any_right: Which utility.
    """

    worth_nq: Floats
    cost_nk: Floats
    joules_nq: Floats | None = None
    weight_q: Floats | None = None
    any_right: bool = False


@dataclass(frozen=True)
class Settings:
    """How to search.

    Args:
        slack: Sums may exceed a limit by this fraction.
        tolerance: Worths closer than this are equal.
        gap: Boxes within this fraction of the best set are not searched.
        node_limit: Most boxes to look at.
        should_stop: Asked before each box; None never stops.
        prove: Keep the tree.
    """

    slack: float
    tolerance: float
    gap: float
    node_limit: int
    should_stop: Callable[[], bool] | None = None
    prove: bool = False


@dataclass(frozen=True)
class Found:
    """What the compiled solver returns, in its own units.

    Args:
        active: Arms by index, ascending.
        price: Multipliers of the root: mean energy, then each set cost.
        objective: Worth of the set.
        bound: No set is worth more.
        explored: Boxes that were looked at.
        evaluated: Relaxations that were computed.
        tree: On request, unless it grew too large.
    """

    active: tuple[int, ...]
    price: Floats
    objective: float
    bound: float
    explored: int
    evaluated: int
    tree: Tree | None


@cache
def _entry() -> tuple[Any, Any]:
    select, free = library().edgewise_select, library().edgewise_select_free
    select.argtypes, select.restype = [INSTANCE, OUTCOME], ctypes.c_int32
    free.argtypes, free.restype = [OUTCOME], None
    return select, free


def head(costs: int) -> int:
    """Entries of a dual vector before its levels."""
    return padded(1 + costs)


def padded(count: int) -> int:
    """Entries after padding to whole lanes."""
    return (count + 7) // 8 * 8


def select(instance: Instance, settings: Settings, *, start: Sequence[int] = (), old: Tree | None = None) -> Found:
    """Run the compiled solver.

    Args:
        instance: What to solve.
        settings: How.
        start: A feasible set to begin with.
        old: Tree of an earlier run on nearly the same instance, to be walked first.

    Raises:
        NativeMissing: The compiled library is not built here.
    """
    call, free = _entry()
    given, out = packed(instance, settings, start=start, old=old), empty_outcome(instance)
    call(ctypes.byref(given.fields), ctypes.byref(out.fields))
    try:
        return found_in(out, keep=settings.prove)
    finally:
        free(ctypes.byref(out.fields))


@dataclass(frozen=True)
class Packed:
    """A structure of the compiled code with the arrays and the callback that it points to."""

    fields: Any
    kept: tuple[Any, ...]


def packed(instance: Instance, settings: Settings, *, start: Sequence[int] = (), old: Tree | None = None) -> Packed:
    """What the compiled code reads."""
    worth_nq, cost_nk = np.ascontiguousarray(instance.worth_nq), np.ascontiguousarray(instance.cost_nk)
    joules_nq = None if instance.joules_nq is None else np.ascontiguousarray(instance.joules_nq)
    begin = np.array(start, dtype=np.int32)
    stop = NEVER if settings.should_stop is None else STOP(settings.should_stop)
    fields = _Instance(
        arms=worth_nq.shape[0],
        queries=worth_nq.shape[1],
        costs=cost_nk.shape[1],
        any_right=instance.any_right,
        worth=worth_nq.ctypes.data,
        joules=None if joules_nq is None else joules_nq.ctypes.data,
        weight=None if instance.weight_q is None else instance.weight_q.ctypes.data,
        cost=cost_nk.ctypes.data,
        slack=settings.slack,
        tolerance=settings.tolerance,
        gap=settings.gap,
        node_limit=settings.node_limit,
        should_stop=stop,
        prove=settings.prove,
        start_count=len(begin),
        start=begin.ctypes.data,
        old_kind=None if old is None else old.kind_t.ctypes.data,
        old_index=None if old is None else old.index_t.ctypes.data,
        old_dual=None if old is None else old.dual_d.ctypes.data,
        old_tokens=0 if old is None else len(old.kind_t),
        old_searched=0 if old is None else len(old.dual_d),
    )
    return Packed(fields, (worth_nq, cost_nk, joules_nq, begin, stop, instance, old))


def empty_outcome(instance: Instance) -> Packed:
    """What the compiled code writes to."""
    active_n, price = np.zeros(instance.worth_nq.shape[0], dtype=np.int32), np.zeros(1 + instance.cost_nk.shape[1])
    return Packed(_Outcome(active=active_n.ctypes.data, price=price.ctypes.data), (active_n, price))


def found_in(outcome: Packed, *, keep: bool) -> Found:
    """What the compiled code wrote; with its tree, copied, where it is to be kept."""
    out, (active_n, price) = outcome.fields, outcome.kept
    active = tuple(active_n.nonzero()[0].tolist())
    tree = _tree(out) if keep else None
    return Found(active, price, out.objective, out.bound, out.explored, out.evaluated, tree)


def _tree(out: _Outcome) -> Tree | None:
    if out.tokens < 0:
        return None
    dual_d = np.zeros((0, out.dual_size))
    if out.duals:
        dual_d = np.ctypeslib.as_array(out.dual, shape=(out.duals, out.dual_size)).copy()
    return Tree(
        np.ctypeslib.as_array(out.kind, shape=(out.tokens,)).copy(),
        np.ctypeslib.as_array(out.index, shape=(out.tokens,)).copy(),
        dual_d,
    )
