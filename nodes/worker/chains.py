"""Pruned chains of the worker: read from verified bytes, run by the compiled kernels.

A file is an .npz archive of plain arrays, see `parse_chain`; reading it can run nothing.
Needs Python 3.10, numpy, and the neighbouring `kernels` with its compiled library.

Shape letters: n images, h and w pixels, p classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.chain.cpu import Chain
from kernels.chain.plan import ChainPlan, Depthwise, Predictor, Step
from kernels.errors import KernelError, ShapeError

# Files with residual sums are of the second format, with depthwise convolutions of the third, which has room for sums
# too; all others stay what they were.
PLAIN, RESIDUAL, SEPARABLE = 1, 2, 3
NUMBERS = {PLAIN: 2, RESIDUAL: 4, SEPARABLE: 5}
SUFFIX = ".npz"

Arrays = Mapping[str, NDArray[Any]]


class ChainModel:
    """A chain with named input and output; images of one channel come without that dimension.

    Args:
        content: The file.

    Raises:
        KernelError: The file is not a chain, or the kernels cannot be used here.
    """

    def __init__(self, content: bytes) -> None:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            self.input_name, self.output_name = (str(name) for name in arrays["names"])
            self._chain = Chain(parse_chain(arrays))
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise KernelError(f"not a chain that can be run: {error}") from error
        plan = self._chain.plan
        self._channels = () if plan.inputs == 1 else (plan.inputs,)
        self._shape = (*self._channels, plan.side, plan.side)

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes of input and output."""
        tensors = {self.input_name: self._shape, self.output_name: (len(self._chain.plan.head_bias_p),)}
        taken, given = (
            {"name": name, "type": "tensor(float)", "shape": ["n", *map(str, shape)]} for name, shape in tensors.items()
        )
        return {"inputs": [taken], "outputs": [given]}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Probabilities (n, p) of images (n, h, w) or (n, c, h, w).

        Raises:
            ShapeError: The tensors are not those.
        """
        if set(inputs) != {self.input_name}:
            raise ShapeError(f"the input is {self.input_name}, not {', '.join(sorted(inputs))}")
        images = inputs[self.input_name]
        if images.dtype != np.float32 or images.shape[1:] != self._shape:
            raise ShapeError(f"{self.input_name} must be float32 (n, *{self._shape})")
        images_nchw = images[:, None] if not self._channels else images
        return {self.output_name: self._chain(images_nchw)[0]}

    def masks(self, images_nchw: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Which groups of all steps each image computes."""
        return self._chain(images_nchw)[1]


def parse_chain(arrays: Arrays) -> ChainPlan:
    """The plan in the arrays of a file.

    Raises:
        KeyError: An array is missing.
        ShapeError: One does not fit.
    """
    version, side, count = (int(number) for number in arrays["head.numbers"])
    if version not in (PLAIN, RESIDUAL, SEPARABLE):
        raise ShapeError(f"format {version} is not known; this worker reads {PLAIN} to {SEPARABLE}")
    steps = tuple(_step(arrays, f"step{index}.") for index in range(count))
    return ChainPlan(steps, arrays["head.weights"], arrays["head.bias"], side)


def _step(arrays: Arrays, prefix: str) -> Step:
    stride, halve, *rest = (int(number) for number in arrays[prefix + "numbers"])
    keep, add, filter_stride = (*rest, 0, 0, 0)[:3]
    predictor = depthwise = None
    if filter_stride:
        depthwise = Depthwise(arrays[prefix + "depthwise"], arrays[prefix + "depthwise_bias"], filter_stride)
    if prefix + "up" in arrays:
        predictor = Predictor(arrays[prefix + "up"], arrays[prefix + "offset"], arrays.get(prefix + "down"))
    own = arrays[prefix + "weights"], arrays[prefix + "bias"]
    return Step(*own, stride, bool(halve), predictor, bool(keep), add, depthwise)


def _version(plan: ChainPlan) -> int:
    if any(step.depthwise is not None for step in plan.steps):
        return SEPARABLE
    return RESIDUAL if any(step.keep or step.add for step in plan.steps) else PLAIN


def chain_arrays(plan: ChainPlan, *, input_name: str, output_name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file; `parse_chain` undoes it."""
    version = _version(plan)
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array([input_name, output_name]),
        "head.numbers": np.array([version, plan.side, len(plan.steps)], dtype=np.int64),
        "head.weights": plan.head_pc,
        "head.bias": plan.head_bias_p,
    }
    for index, step in enumerate(plan.steps):
        prefix, layer = f"step{index}.", step.depthwise
        numbers = [step.stride, step.halve, step.keep, step.add, 0 if layer is None else layer.stride]
        arrays[prefix + "numbers"] = np.array(numbers[: NUMBERS[version]], dtype=np.int64)
        if layer is not None:
            arrays |= {prefix + "depthwise": layer.weights_ikk, prefix + "depthwise_bias": layer.bias_i}
        arrays |= {prefix + "weights": step.weights_oikk, prefix + "bias": step.bias_o}
        if step.predictor is not None:
            arrays |= {prefix + "up": step.predictor.up_gr, prefix + "offset": step.predictor.offset_g}
            if step.predictor.down_ri is not None:
                arrays[prefix + "down"] = step.predictor.down_ri
    return arrays
