"""A chain on a CPU: one call of the compiled code classifies one image, predictors and all.

Shape letters: n images, c channels, h and w pixels, g groups of all steps together, p classes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.chain.plan import ChainPlan, Depthwise, Predictor
from kernels.depthwise.cpu import DepthFields, Packed, packed
from kernels.errors import KernelError, ShapeError
from kernels.masked_conv.cpu import ConvFields, ConvShape, Pooling, conv_fields
from kernels.masked_conv.layout import GROUP, Floats, aligned, groups_of, pack_weights, pad_outputs
from kernels.native.library import Isa, chosen, library

Masks = NDArray[np.uint8]


class _Step(ctypes.Structure):
    _fields_ = [
        ("conv", ConvFields),
        *[(name, ctypes.c_int32) for name in ("halve", "keep", "add", "rank")],
        *[(name, ctypes.c_void_p) for name in ("down", "up", "offset")],
        ("depthwise", ctypes.POINTER(DepthFields)),
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        ("steps", ctypes.POINTER(_Step)),
        *[(name, ctypes.c_int32) for name in ("count", "isa", "classes", "channels")],
        ("image_floats", ctypes.c_int64),
        ("head", ctypes.c_void_p),
        ("head_bias", ctypes.c_void_p),
    ]


class Chain:
    """A plan made ready to run; may be called from several threads at once.

    Args:
        plan: What to run.
        isa: Instruction set; None for the fastest here.

    Raises:
        KernelMissing: The library, or this instruction set, cannot be used here.
    """

    def __init__(self, plan: ChainPlan, *, isa: Isa | None = None) -> None:
        self.plan = plan
        self.isa = chosen(isa)
        self.mask_size = sum(plan.groups)
        self._kept: list[Floats | Packed] = []
        self._image_floats = 0
        steps = list(self._steps())
        self._program = _Program(
            steps=(_Step * len(steps))(*steps),
            count=len(steps),
            isa=int(self.isa),
            classes=len(plan.head_bias_p),
            channels=_widest(plan),
            image_floats=self._image_floats,
            head=self._keep(_columns(plan.head_pc)),
            head_bias=self._keep(pad_outputs(plan.head_bias_p)),
        )
        self._room = threading.local()
        self._passed = ctypes.byref(self._program)
        self._run = _entry()

    def _steps(self) -> Iterator[_Step]:
        side, inputs = self.plan.side, self.plan.inputs
        self._grow(inputs, side)
        for step in self.plan.steps:
            filters, side = self._depthwise(step.depthwise, side)
            weights, bias = pack_weights(np.asarray(step.weights_oikk, np.float32)), pad_outputs(step.bias_o)
            self._kept += [weights, bias]
            shape = ConvShape(side, side, step.stride, pooling=Pooling.MAX)
            fields = conv_fields(weights, bias, shape, inputs)
            inputs, side = len(step.bias_o), -(-side // step.stride)
            self._grow(inputs, side)
            side = side // 2 if step.halve else side
            also = {"halve": step.halve, "keep": step.keep, "add": step.add, **self._predictor(step.predictor)}
            yield _Step(conv=fields, depthwise=filters, **also)

    def _depthwise(self, layer: Depthwise | None, side: int) -> tuple[Any, int]:
        """A pointer to the compiled code's layer, NULL where there is none, and the side after it."""
        if layer is None:
            return None, side
        made = packed(layer.weights_ikk, layer.bias_i, (side, side), stride=layer.stride)
        self._kept.append(made)
        return ctypes.pointer(made.fields), made.fields.out_height

    def _predictor(self, predictor: Predictor | None) -> dict[str, int | None]:
        if predictor is None:
            return {"rank": 0, "down": None, "up": None, "offset": None}
        down = predictor.down_ri
        return {
            "rank": 0 if down is None else len(down),
            "down": None if down is None else self._keep(_columns(down)),
            "up": self._keep(_columns(predictor.up_gr)),
            "offset": self._keep(pad_outputs(predictor.offset_g)),
        }

    def _grow(self, channels: int, side: int) -> None:
        self._image_floats = max(self._image_floats, groups_of(channels) * GROUP * side * side)

    def _keep(self, array: Floats) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def __call__(self, images_nchw: Floats, *, masks_ng: Masks | None = None) -> tuple[Floats, Masks]:
        """Probabilities (n, p) and the masks (n, g) that were used.

        Args:
            images_nchw: float32.
            masks_ng: Computed instead of what the predictors ask for; those run all the same.

        Raises:
            ShapeError: The images or masks do not fit.
        """
        images_nchw = np.ascontiguousarray(images_nchw, dtype=np.float32)
        self._check(images_nchw, masks_ng)
        probabilities_np = np.empty((len(images_nchw), len(self.plan.head_bias_p)), dtype=np.float32)
        used_ng = np.empty((len(images_nchw), self.mask_size), dtype=np.uint8)
        arrays = images_nchw, self._scratch(), masks_ng, used_ng, probabilities_np
        if self._run(self._passed, len(images_nchw), *map(_address, arrays)):
            raise KernelError(f"{self.isa.name} stopped running")
        return probabilities_np, used_ng

    def _check(self, images_nchw: Floats, masks_ng: Masks | None) -> None:
        expected = (self.plan.inputs, self.plan.side, self.plan.side)
        if images_nchw.shape[1:] != expected:
            raise ShapeError(f"images must be (n, {expected}), not {images_nchw.shape}")
        if masks_ng is None:
            return
        fits = masks_ng.shape == (len(images_nchw), self.mask_size) and masks_ng.dtype == np.uint8
        if not fits or not masks_ng.flags.c_contiguous:
            raise ShapeError(f"masks must be contiguous uint8 (n, {self.mask_size})")

    def _scratch(self) -> Floats:
        found: Floats | None = getattr(self._room, "scratch", None)
        if found is None:
            found = self._room.scratch = aligned(3 * self._image_floats + 6 * self._program.channels)
        return found


@cache
def _entry() -> Any:
    run = library().edgewise_program_run
    run.argtypes = [ctypes.POINTER(_Program), ctypes.c_int64, *[ctypes.c_void_p] * 5]
    run.restype = ctypes.c_int32
    return run


def _address(array: NDArray[Any] | None) -> int | None:
    # Three times faster than `array.ctypes.data`, which matters beside runs of 0.1 ms.
    return None if array is None else array.__array_interface__["data"][0]


def _widest(plan: ChainPlan) -> int:
    """Numbers that any list of channels, logits or classes needs."""
    counts = [plan.inputs, len(plan.head_bias_p), *(len(step.bias_o) for step in plan.steps)]
    counts += [max(step.predictor.up_gr.shape) for step in plan.steps if step.predictor is not None]
    return groups_of(max(counts)) * GROUP


def _columns(map_or: Floats) -> Floats:
    """(out, in) to (in, out padded to whole groups)."""
    padded = aligned(map_or.shape[1], groups_of(len(map_or)) * GROUP)
    padded[:, : len(map_or)] = map_or.T
    return padded
