"""Users' own small classifiers in the worker: one call of the compiled kernels runs network, gate and choice.

What is read is an .npz archive of plain arrays, see `parse_fork`; reading it can run nothing.
Needs Python 3.10, numpy, and the neighbouring `kernels` with its compiled library.

Shape letters: n images, c channels, h and w pixels, p classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import KernelError, ShapeError
from kernels.forked.cpu import Fork
from kernels.forked.plan import ForkPlan, Gate, Layer

FORMAT = 1
IMAGE, PROBABILITIES, LOCAL = "image", "probabilities", "local"

Arrays = Mapping[str, NDArray[Any]]


class ForkModel:
    """A forked classifier with named input and outputs; images of one channel come without that dimension.

    Args:
        content: What `fork_arrays` says, as an .npz archive.

    Raises:
        KernelError: It is not that, or the kernels cannot be used here.
    """

    def __init__(self, content: bytes) -> None:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                self._fork = Fork(parse_fork({name: archive[name] for name in archive.files}))
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise KernelError(f"not a forked classifier that can be run: {error}") from error
        plan = self._fork.plan
        self._lone = plan.channels == 1
        self._shape = (plan.side, plan.side) if self._lone else (plan.channels, plan.side, plan.side)

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes of input and outputs."""
        classes = self._fork.plan.classes
        return {
            "inputs": [_told(IMAGE, "float", self._shape)],
            "outputs": [_told(PROBABILITIES, "float", (classes,)), _told(LOCAL, "bool", (1,))],
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Probabilities (n, p) of images (n, h, w) or (n, c, h, w), and whether the user's layers gave them (n, 1).

        Raises:
            ShapeError: The tensors are not those.
        """
        if set(inputs) != {IMAGE}:
            raise ShapeError(f"the input is {IMAGE}, not {', '.join(sorted(inputs))}")
        images = inputs[IMAGE]
        if images.dtype != np.float32 or images.shape[1:] != self._shape:
            raise ShapeError(f"{IMAGE} must be float32 (n, *{self._shape})")
        probabilities_np, local_n = self._fork(images[:, None] if self._lone else images)
        return {PROBABILITIES: probabilities_np, LOCAL: local_n[:, None]}


def _told(name: str, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "type": f"tensor({kind})", "shape": ["n", *map(str, shape)]}


def parse_fork(arrays: Arrays) -> ForkPlan:
    """The plan in the arrays; `fork_arrays` undoes it.

    Raises:
        KeyError: An array is missing.
        ShapeError: One does not fit.
    """
    version, side, upsample, count, cells = (int(number) for number in arrays["fork.numbers"])
    if version != FORMAT:
        raise ShapeError(f"format {version} is not known; this worker reads {FORMAT}")
    layers = tuple(_layer(arrays, index, f"layer{index}.") for index in range(count))
    if not cells:
        return ForkPlan(side, layers, upsample=upsample)
    others = tuple(_layer(arrays, index, f"other{index}.") for index in range(1, count))
    first_sh, bias_h, second_h = (arrays[f"gate.{name}"] for name in ("first", "bias", "second"))
    gate = Gate(cells, first_sh, bias_h, second_h, float(arrays["gate.threshold"]))
    return ForkPlan(side, layers, others, gate, upsample)


def _layer(arrays: Arrays, index: int, prefix: str) -> Layer:
    padding, stride, pool, averaged = (int(number) for number in arrays[f"layer{index}.numbers"])
    return Layer(arrays[prefix + "weights"], arrays[prefix + "bias"], padding, stride, pool, bool(averaged))


def fork_arrays(plan: ForkPlan) -> dict[str, NDArray[Any]]:
    """The arrays of an archive."""
    gate = plan.gate
    numbers = [FORMAT, plan.side, plan.upsample, len(plan.layers), 0 if gate is None else gate.cells]
    arrays: dict[str, NDArray[Any]] = {"fork.numbers": np.array(numbers, np.int64)}
    for index, layer in enumerate(plan.layers):
        own = [layer.padding, layer.stride, layer.pool, layer.averaged]
        arrays |= {f"layer{index}.numbers": np.array(own, np.int64)}
        arrays |= {f"layer{index}.weights": layer.weights, f"layer{index}.bias": layer.bias_o}
    for index, layer in enumerate(plan.others, start=1):
        arrays |= {f"other{index}.weights": layer.weights, f"other{index}.bias": layer.bias_o}
    if gate is not None:
        arrays |= {"gate.first": gate.first_sh, "gate.bias": gate.bias_h, "gate.second": gate.second_h}
        arrays["gate.threshold"] = np.array(gate.threshold, np.float32)
    return arrays
