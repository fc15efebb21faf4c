"""Binding of the solver's one call for a whole problem of mode ``worst_case`` (``whole.c``, ``intake.c``).

Shape letters: q queries, n arms of the problem, e eligible arms, k set costs, b binding ones.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.native.library import library
from optimizer.native.select import NEVER, STOP, Floats, Settings

Bools = NDArray[np.bool_]


class _Whole(ctypes.Structure):
    _fields_ = [
        ("queries", ctypes.c_int32),
        ("arms", ctypes.c_int32),
        ("costs", ctypes.c_int32),
        ("any_right", ctypes.c_int32),
        ("worth", ctypes.c_void_p),
        ("allowed", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("cost", ctypes.c_void_p),
        ("limit", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("slack", ctypes.c_double),
        ("tolerance", ctypes.c_double),
        ("gap", ctypes.c_double),
        ("node_limit", ctypes.c_int64),
        ("should_stop", STOP),
        ("known", ctypes.c_double),
        ("active", ctypes.c_void_p),
        ("objective", ctypes.c_double),
        ("bound", ctypes.c_double),
        ("price", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("explored", ctypes.c_int64),
        ("eligibles", ctypes.c_int32),
        ("optimal", ctypes.c_int32),
    ]


class _Intake(ctypes.Structure):
    _fields_ = [
        ("eligibles", ctypes.c_int32),
        ("bindings", ctypes.c_int32),
        ("eligible", ctypes.c_void_p),
        ("binding", ctypes.c_void_p),
        ("worth", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_double),
    ]


@dataclass(frozen=True, slots=True)
class Stated:
    """A problem of mode ``worst_case`` in its own units.

    Args:
        value_qn: Qualities, or with `any_right` probabilities.
        any_right: Which utility.
        allowed_qn: Whether each arm is fast enough for each query; None where every one is.
        weights_q: Weight of each query.
        cost_kn: What each arm takes of each limit; energy first, where it is limited.
        limit_k: What there is.
        order_n: Which arms fill what room is left first: the smallest.

    Every array is contiguous: addresses are taken as they are.
    """

    value_qn: Floats
    any_right: bool
    allowed_qn: Bools | None
    weights_q: Floats
    cost_kn: Floats
    limit_k: Floats
    order_n: Floats


class Answer(NamedTuple):
    """The best set, in the problem's units. A tuple, because it takes a microsecond less to make.

    Args:
        active: Arms by index, ascending, with those that still fit.
        objective: What they are worth.
        bound: No set is worth more.
        explored: Boxes that were looked at.
        optimal: Whether the bound meets the objective.
        price: Worth of one more unit of the first limit, by the relaxation of the root.
    """

    active: tuple[int, ...]
    objective: float
    bound: float
    explored: int
    optimal: bool
    price: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A problem in the solver's units: every limit is 1, and all arms together are worth 1.

    Args:
        eligible_e: Arms that fit by themselves, by index.
        binding_b: Set costs that can be exceeded at all, by index.
        worth_eq: Weighted worths, or with any-right probabilities.
        share_eb: What each arm takes of each binding limit.
        weight_q: Weights, for any-right.
        scale: Worth of all eligible arms together.
    """

    eligible_e: list[int]
    binding_b: list[int]
    worth_eq: Floats
    share_eb: Floats
    weight_q: Floats
    scale: float


@cache
def _entries() -> tuple[Any, Any]:
    solve, take_in = library().edgewise_solve, library().edgewise_take_in
    solve.argtypes, solve.restype = [ctypes.POINTER(_Whole)], None
    take_in.argtypes, take_in.restype = [ctypes.POINTER(_Whole), ctypes.POINTER(_Intake)], None
    return solve, take_in


def solve_whole(stated: Stated, settings: Settings) -> Answer | None:
    """The best set of a problem, in one call; None where no arm fits by itself.

    Raises:
        NativeMissing: The compiled library is not built here.
    """
    solve, _ = _entries()
    fields, active = _fields(stated, settings), ctypes.create_string_buffer(len(stated.order_n))
    fields.active = ctypes.addressof(active)
    solve(fields)
    if not fields.eligibles:
        return None
    chosen = tuple([n for n, one in enumerate(active.raw) if one])
    return Answer(chosen, fields.objective, fields.bound, fields.explored, bool(fields.optimal), fields.price)


def take_in(stated: Stated, settings: Settings, *, known: float | None = None) -> Taken:
    """The problem in the solver's units; a known scale keeps the units of an earlier run.

    Raises:
        NativeMissing: The compiled library is not built here.
    """
    _, call = _entries()
    fields = _fields(stated, settings)
    fields.known = known or 0.0
    (queries, arms), costs = stated.value_qn.shape, len(stated.limit_k)
    eligible_n, binding_k = np.zeros(arms, dtype=np.int32), np.zeros(costs, dtype=np.int32)
    worth_n, share_n, weight_q = np.zeros(arms * queries), np.zeros(arms * costs), np.zeros(queries)
    to = _Intake(0, 0, *(array.ctypes.data for array in (eligible_n, binding_k, worth_n, share_n, weight_q)), 0.0)
    call(fields, to)
    eligibles, bindings = to.eligibles, to.bindings
    return Taken(
        eligible_n[:eligibles].tolist(),
        binding_k[:bindings].tolist(),
        worth_n[: eligibles * queries].reshape(eligibles, queries),
        share_n[: eligibles * bindings].reshape(eligibles, bindings),
        weight_q,
        to.scale,
    )


def _fields(stated: Stated, settings: Settings) -> _Whole:
    value_qn, allowed_qn, stop = stated.value_qn, stated.allowed_qn, settings.should_stop
    return _Whole(
        *value_qn.shape,
        len(stated.limit_k),
        stated.any_right,
        address(value_qn),
        None if allowed_qn is None else address(allowed_qn),
        address(stated.weights_q),
        address(stated.cost_kn),
        address(stated.limit_k),
        address(stated.order_n),
        settings.slack,
        settings.tolerance,
        settings.gap,
        settings.node_limit,
        NEVER if stop is None else STOP(stop),
    )


def address(array: NDArray[Any]) -> int:
    """Where an array lies. Asking numpy takes five times as long, but is the only way to one that cannot be written."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (TypeError, ValueError):
        return array.ctypes.data
