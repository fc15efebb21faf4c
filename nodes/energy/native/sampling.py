"""Binding of the compiled sampler (``sampler.c``): starts it, empties it, knows what it costs.

Shape letters: k samples, f files.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

PATH = Path(__file__).parent / "_native.so"
# At 10 Hz nearly seven minutes.
CAPACITY = 4096

log = structlog.get_logger("nodes.energy")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None where it is not built."""
    try:
        found = ctypes.CDLL(str(PATH))
    except OSError:
        return None
    found.edgewise_sampler_start.argtypes = [
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_int,
        ctypes.c_double,
        ctypes.c_int,
    ]
    found.edgewise_sampler_start.restype = ctypes.c_void_p
    found.edgewise_sampler_take.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    found.edgewise_sampler_cpu_s.argtypes = [ctypes.c_void_p]
    found.edgewise_sampler_cpu_s.restype = ctypes.c_double
    found.edgewise_sampler_failed.argtypes = [ctypes.c_void_p]
    found.edgewise_sampler_failed.restype = ctypes.c_int64
    found.edgewise_sampler_stop.argtypes = [ctypes.c_void_p]
    found.edgewise_source_digest.restype = ctypes.c_char_p
    return found


def available() -> bool:
    """Whether the compiled sampler can be used here."""
    return library() is not None


class NativeSampler:
    """Samples files from `start` to `stop`; `drain` hands over what was gathered since.

    Args:
        files: What to read: whole numbers, one a file.
        keep: Takes times and numbers of the samples since the last call, oldest first.
        rate_hz: How often.
    """

    def __init__(
        self, files: Sequence[Path], keep: Callable[[list[float], list[list[int]]], None], *, rate_hz: float
    ) -> None:
        self.rate_hz = rate_hz
        self.samples = 0
        self._files = files
        self._keep = keep
        self._handle: int | None = None
        self._started_s = time.monotonic()
        self._failed = 0
        self._time_s_k: NDArray[np.float64] = np.zeros(CAPACITY)
        self._value_kf: NDArray[np.int64] = np.zeros((CAPACITY, len(files)), dtype=np.int64)
        self._places = self._time_s_k.ctypes.data, self._value_kf.ctypes.data

    @property
    def cpu_fraction(self) -> float:
        """Share of one core that sampling has taken so far."""
        used_s = self._call("edgewise_sampler_cpu_s") if self._handle else 0.0
        return float(used_s) / max(time.monotonic() - self._started_s, 1e-9)

    def start(self) -> None:
        """Start the thread. A file that cannot be opened is logged; nothing is sampled then."""
        paths = (ctypes.c_char_p * len(self._files))(*(str(file).encode() for file in self._files))
        self._started_s = time.monotonic()
        found = library()
        started = found.edgewise_sampler_start(paths, len(self._files), self.rate_hz, CAPACITY) if found else None
        self._handle = started
        if not started:
            log.error("energy source lost", why="the sensor's files cannot be opened")

    def stop(self) -> None:
        """End the thread, within one period."""
        if self._handle:
            self.drain()
            self._call("edgewise_sampler_stop")
        self._handle = None

    def drain(self) -> None:
        """Hand over all samples since the last call. Cost: microseconds a sample."""
        if not self._handle:
            return
        taken = int(self._call("edgewise_sampler_take", *self._places, CAPACITY))
        if taken:
            self._keep(self._time_s_k[:taken].tolist(), self._value_kf[:taken].tolist())
            self.samples += taken
        else:
            self._report()

    def _report(self) -> None:
        failed = int(self._call("edgewise_sampler_failed"))
        if failed and not self._failed:
            log.error("energy source lost", why="a file of the sensor cannot be read")
        self._failed = failed

    def _call(self, name: str, *arguments: int) -> float:
        found = library()
        return 0.0 if found is None else getattr(found, name)(self._handle, *arguments) or 0.0
