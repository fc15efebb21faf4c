"""A forked classifier on a CPU: one call of the compiled code runs first layer, gate and the layers that it chose.

Shape letters: n images, c channels, h and w pixels, p classes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import KernelError, ShapeError
from kernels.forked.plan import ForkPlan, Gate, Layer
from kernels.forked.reference import positions
from kernels.masked_conv.layout import GROUP, Floats, aligned, groups_of, pad_outputs
from kernels.native.library import Isa, chosen, library


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("outputs", "rows", "run", "line", "step", "down", "side", "pool", "averaged", "last")
    ]


class _Weights(ctypes.Structure):
    _fields_ = [("weights", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class _Gate(ctypes.Structure):
    _fields_ = [
        ("cells", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
        ("threshold", ctypes.c_float),
        *[(name, ctypes.c_void_p) for name in ("first", "bias", "second")],
    ]


class _Fork(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        ("weights", ctypes.POINTER(_Weights) * 2),
        *[(name, ctypes.c_void_p) for name in ("at", "margin", "line", "low", "share")],
        *[(name, ctypes.c_int32) for name in ("count", "isa", "side", "channels", "upsample", "classes")],
        ("lines", ctypes.c_int64),
        ("gate", _Gate),
    ]


class Fork:
    """A plan made ready to run; may be called from several threads at once.

    Args:
        plan: What to run.
        isa: Instruction set; None for the fastest here.

    Raises:
        KernelMissing: The library, or this instruction set, cannot be used here.

    Cost: LeNet-5 24 to 31 us, called from Python (rows `speed.lenet5.us` of the benchmark of personal experts).
    Accuracy: probabilities within 1e-5 of `reference.classify` (32-bit sums).
    """

    def __init__(self, plan: ForkPlan, *, isa: Isa | None = None) -> None:
        self.plan = plan
        self.isa = chosen(isa)
        self._kept: list[NDArray[Any]] = []
        layers, rooms, most_lines = _laid_out(plan)
        at = np.cumsum([0, *(room for _, _, room in rooms)])
        low, share = positions(plan.side, plan.upsample)
        others = (plan.layers[0], *plan.others) if plan.gate is not None else plan.layers
        self._fork = _Fork(
            layers=(_Layer * len(layers))(*layers),
            weights=(ctypes.POINTER(_Weights) * 2)(self._weights(plan.layers), self._weights(others)),
            at=self._keep(at[:-1].astype(np.int64)),
            margin=self._keep(np.array([margin for margin, _, _ in rooms], np.int32)),
            line=self._keep(np.array([line for _, line, _ in rooms], np.int32)),
            low=self._keep(low),
            share=self._keep(share.astype(np.float32)),
            count=len(layers),
            isa=int(self.isa),
            side=plan.side,
            channels=plan.channels,
            upsample=plan.upsample,
            classes=plan.classes,
            lines=int(at[-1]),
            gate=self._gate(plan.gate),
        )
        self._shape = (plan.channels, plan.side, plan.side)
        self._floats = int(at[-1]) + most_lines
        self._room = threading.local()
        self._passed, self._run = ctypes.byref(self._fork), _entry()

    def _weights(self, layers: Sequence[Layer]) -> Any:
        made = (_Weights * len(layers))()
        side = self.plan.side * self.plan.upsample
        for layer, own in zip(layers, made, strict=True):
            own.weights = self._keep(_packed(layer, side))
            own.bias = self._keep(pad_outputs(layer.bias_o))
            side = layer.left(side)
        return ctypes.cast(made, ctypes.POINTER(_Weights))

    def _gate(self, gate: Gate | None) -> _Gate:
        if gate is None:
            return _Gate()
        tensors = (np.ascontiguousarray(array, np.float32) for array in (gate.first_sh, gate.bias_h, gate.second_h))
        return _Gate(gate.cells, len(gate.bias_h), gate.threshold, *map(self._keep, tensors))

    def _keep(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def __call__(self, images_nchw: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Probabilities (n, p), and where the second set of layers gave them (n).

        Args:
            images_nchw: float32.

        Raises:
            ShapeError: They do not fit.
        """
        images_nchw = np.ascontiguousarray(images_nchw, dtype=np.float32)
        if images_nchw.shape[1:] != self._shape:
            raise ShapeError(f"images must be (n, {self._shape}), not {images_nchw.shape}")
        count = len(images_nchw)
        probabilities_np = np.empty((count, self.plan.classes), np.float32)
        local_n = np.empty(count, np.bool_)
        arrays = images_nchw, self._scratch(), local_n, probabilities_np
        if self._run(self._passed, count, *(array.__array_interface__["data"][0] for array in arrays)):
            raise KernelError(f"{self.isa.name} stopped running")
        return probabilities_np, local_n

    def _scratch(self) -> Floats:
        found: Floats | None = getattr(self._room, "scratch", None)
        if found is None:
            found = self._room.scratch = aligned(self._floats)
        return found


@cache
def _entry() -> Any:
    run = library().edgewise_fork_run
    run.argtypes = [ctypes.POINTER(_Fork), ctypes.c_int64, *[ctypes.c_void_p] * 4]
    run.restype = ctypes.c_int32
    return run


def _laid_out(plan: ForkPlan) -> tuple[list[_Layer], list[tuple[int, int, int]], int]:
    """The layers; margin, numbers per line and numbers of what each reads; room for lines that are not pooled yet."""
    side, channels, layers, rooms = plan.side * plan.upsample, plan.channels, [], []
    most_lines = _gate_room(plan)
    for layer in plan.layers:
        outputs, left = len(layer.bias_o), layer.left(side)
        line, last = (side + 2 * layer.padding) * channels, layer is plan.layers[-1]
        kernel = layer.weights.shape[2] if layer.conv else side
        pooled = layer.answered(side) // layer.pool
        rows, run = (kernel, kernel * channels) if layer.conv else (1, side * side * channels)
        layers.append(
            _Layer(
                outputs=outputs,
                rows=rows,
                run=run,
                line=line,
                step=layer.stride * channels,
                down=layer.stride * line,
                side=pooled,
                pool=layer.pool,
                averaged=layer.averaged,
                last=last,
            )
        )
        rooms.append((layer.padding, line, groups_of((side + 2 * layer.padding) * line) * GROUP))
        most_lines = max(most_lines, layer.pool * layer.pool * pooled * GROUP)
        side, channels = left, outputs
    return layers, rooms, most_lines


def _gate_room(plan: ForkPlan) -> int:
    """Numbers that the gate takes beside the pictures: its hidden units, and two lines of what it sees."""
    first = plan.layers[0]
    width = first.left(plan.side * plan.upsample) * len(first.bias_o)
    return 0 if plan.gate is None else len(plan.gate.bias_h) + 2 * width


def _packed(layer: Layer, side: int) -> Floats:
    """Weights as [group][what the kernel covers, line by line, pixel by pixel, channel by channel][16 outputs]."""
    outputs = len(layer.weights)
    shape = layer.weights.shape if layer.conv else (outputs, -1, side, side)
    covered = layer.weights.reshape(shape).transpose(0, 2, 3, 1).reshape(outputs, -1)
    packed = aligned(groups_of(outputs), covered.shape[1], GROUP)
    for group in range(len(packed)):
        part = covered[group * GROUP : (group + 1) * GROUP]
        packed[group, :, : len(part)] = part.T
    return packed
