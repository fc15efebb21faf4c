"""The few calls of CUDA's runtime that an engine needs, by ctypes: a Jetson's Python has numpy and TensorRT only."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
# Where wheels put it, from a folder of packages.
WHEELS = ("nvidia/cu13/lib/libcudart.so.*", "nvidia/cuda_runtime/lib/libcudart.so.*")
MAJOR, MINOR = 75, 76
TO_DEVICE, TO_HOST = 1, 2


class CudaMissing(Exception):
    """CUDA's runtime cannot be loaded, or it finds no GPU."""


class CudaFailed(Exception):
    """A call of CUDA's runtime failed; the text is CUDA's."""


@cache
def runtime() -> Any:
    """The library.

    Raises:
        CudaMissing: There is none.
    """
    for name in (*LIBRARIES, *_from_wheels()):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        library.cudaMalloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        library.cudaFree.argtypes = [ctypes.c_void_p]
        library.cudaMemcpyAsync.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
        library.cudaStreamSynchronize.argtypes = [ctypes.c_void_p]
        return library
    raise CudaMissing("no libcudart is found; install CUDA's runtime or the package nvidia-cuda-runtime")


def _from_wheels() -> list[str]:
    return [str(file) for place in sys.path for pattern in WHEELS for file in sorted(Path(place).glob(pattern))]


def call(name: str, *arguments: Any) -> None:
    """One call.

    Raises:
        CudaFailed: It did not succeed.
    """
    code = getattr(runtime(), name)(*arguments)
    if code:
        raise CudaFailed(f"{name}: {runtime().cudaGetErrorString(code).decode(errors='replace')}")


def gpu() -> dict[str, str]:
    """Compute capability of the first GPU, and the newest CUDA that its driver knows.

    Raises:
        CudaMissing: There is no GPU.
    """
    numbers = [ctypes.c_int() for _ in range(3)]
    major, minor, driver = numbers
    try:
        call("cudaDeviceGetAttribute", ctypes.byref(major), MAJOR, 0)
        call("cudaDeviceGetAttribute", ctypes.byref(minor), MINOR, 0)
        call("cudaDriverGetVersion", ctypes.byref(driver))
    except CudaFailed as error:
        raise CudaMissing(str(error)) from error
    return {"capability": f"{major.value}.{minor.value}", "driver": str(driver.value)}


class Stream:
    """An order of work on the GPU."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cudaStreamCreate", ctypes.byref(self._handle))

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return self._handle.value or 0

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        call("cudaStreamSynchronize", self._handle)


class Buffer:
    """Memory of the GPU that grows when more is asked for."""

    def __init__(self) -> None:
        self._address = ctypes.c_void_p()
        self._size_bytes = 0

    def at_least(self, size_bytes: int) -> int:
        """Its address, with room for so many bytes; what it held is lost where it grows."""
        if size_bytes > self._size_bytes:
            if self._address.value:
                call("cudaFree", self._address)
            call("cudaMalloc", ctypes.byref(self._address), size_bytes)
            self._size_bytes = size_bytes
        return self._address.value or 0

    def put(self, array: NDArray[Any], stream: Stream) -> int:
        """Copy an array in; it must live until the stream was waited for. Returns the address."""
        address = self.at_least(max(array.nbytes, 1))
        call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, TO_DEVICE, stream.handle)
        return address

    def fetch(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Stream) -> NDArray[Any]:
        """Copy an array out; it is whole once the stream was waited for."""
        array = np.empty(shape, dtype)
        call("cudaMemcpyAsync", array.ctypes.data, self._address, array.nbytes, TO_HOST, stream.handle)
        return array
