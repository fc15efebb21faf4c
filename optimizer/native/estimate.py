"""Binding of `estimate.c`: qualities and reaches of all routes for one query in one call.

Shape letters: f features, e experts, r routes, s stages.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.native.library import PATH, library

Floats = NDArray[np.float64]
_LONG = ctypes.c_int64


class _Estimate(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("links", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("features", _LONG),
        ("experts", _LONG),
        ("routes", _LONG),
        ("stages", _LONG),
        ("query", ctypes.c_void_p),
        ("odds", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


class Estimator:
    """Heads and links of one task. Not for several threads at once: a call writes into what it keeps.

    Args:
        heads: Weights (e, f) and bias (e) of the experts' heads.
        links: Weights (r + r·s, e) and offsets (r + r·s) of the routes' qualities, then of their reaches, halved.
        routes: How many routes.

    Raises:
        NativeMissing: The compiled part is not built.
    """

    def __init__(self, heads: tuple[Floats, Floats], links: tuple[Floats, Floats], *, routes: int) -> None:
        self._call = _function()
        self._made_of = heads, links
        weights, bias, rows, offset = (np.ascontiguousarray(part, dtype=np.float64) for part in (*heads, *links))
        experts, features = weights.shape
        self._routes, self._stages = routes, len(offset) // routes - 1
        self._query, self._out, odds = np.empty(features), np.empty(len(offset)), np.empty(experts)
        # Kept, because the compiled code holds plain addresses into them.
        self._kept = (weights, bias, rows, offset, odds)
        sizes = (features, experts, routes, self._stages)
        addresses = [part.ctypes.data for part in (weights, bias, rows, offset)]
        scratch = [part.ctypes.data for part in (self._query, odds, self._out)]
        self._struct = _Estimate(*addresses, *sizes, *scratch)
        self._pointer = ctypes.addressof(self._struct)

    def __call__(self, x_f: NDArray[Any]) -> tuple[Floats, Floats]:
        """Quality (r) and reach (r, s) for one query's features. Cost: 3 µs for 20 experts and 30 routes.

        Raises:
            ValueError: There are not as many features as weights.
        """
        if x_f.shape != self._query.shape:
            raise ValueError(f"{x_f.shape} features where heads have {self._query.shape}")
        self._query[:] = x_f
        self._call(self._pointer)
        out = self._out.copy()
        return out[: self._routes], out[self._routes :].reshape(self._routes, self._stages)

    def __reduce__(self) -> tuple[Any, ...]:
        heads, links = self._made_of
        return _remade, (heads, links, self._routes)


def _remade(heads: tuple[Floats, Floats], links: tuple[Floats, Floats], routes: int) -> Estimator:
    return Estimator(heads, links, routes=routes)


@cache
def _function() -> Any:
    # Over in two microseconds: letting go of the interpreter's lock and taking it again would cost as much.
    library()
    function = ctypes.PyDLL(PATH).edgewise_estimate
    function.argtypes, function.restype = [ctypes.c_void_p], None
    return function
