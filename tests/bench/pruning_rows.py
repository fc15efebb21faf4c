"""The recorded operating points of `bench_pruning`: facts, plans and the masks of real images.

``python -m tests.bench.pruning_rows CHECKPOINT...`` records checkpoints of ``edgewise prune train``: the masks that
the served chain decides on for the first 500 test images, bit by bit, and the digest of the checkpoint, which is not
kept here.

Shape letters: n images, g groups of all steps.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.chain.plan import ChainPlan, Predictor, Step
from kernels.masked_conv.layout import GROUP
from nodes.pruning.cost import Layer, Masks, sample_macs
from nodes.zoo.arrays import read_arrays, write_arrays

FOLDER = Path(__file__).parent / "data" / "pruning"
IMAGES = 500
KERNEL = 9

Masks8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One checkpoint as it is committed.

    Attributes:
        facts: What was measured when it was trained.
        plan: Channels and "M".
        masks_ng: Of the first test images; None of a network without gates.
    """

    name: str
    facts: dict[str, Any]
    plan: tuple[int | str, ...]
    masks_ng: Masks8 | None

    @property
    def groups(self) -> tuple[int, ...]:
        """Groups of each step."""
        return tuple(-(-int(width) // GROUP) for width in self.plan if width != "M")


def recorded() -> list[Recorded]:
    """All of them, by name."""
    return [_read(path) for path in sorted(FOLDER.glob("*.json"))]


def _read(path: Path) -> Recorded:
    content = json.loads(path.read_text())
    packed = path.with_suffix(".npz")
    found = Recorded(path.stem, content["facts"], tuple(content["net"]["plan"]), None)
    if not packed.exists():
        return found
    bits_nb = read_arrays(packed)["masks"]
    masks_ng = np.ascontiguousarray(np.unpackbits(bits_nb, axis=1)[:, : sum(found.groups)])
    return Recorded(found.name, found.facts, found.plan, masks_ng)


def layers_of_plan(plan: tuple[int | str, ...], *, inputs: int = 3, side: int = 32, classes: int = 10) -> list[Layer]:
    """The layers of a chain whose convolutions, but the first, have full predictors."""
    layers: list[Layer] = []
    for width in plan:
        if width == "M":
            side //= 2
            continue
        outputs, first = int(width), not layers
        layers.append(
            Layer(
                f"convs.{len(layers)}",
                inputs,
                outputs,
                KERNEL,
                side * side,
                source=layers[-1].name if len(layers) > 1 else None,
                gated=not first,
                predictor_macs=0 if first else inputs * -(-outputs // GROUP),
            )
        )
        inputs = outputs
    return [*layers, Layer("head", inputs, classes, 1, 1, source=layers[-1].name)]


def named_masks(masks_ng: Masks8, groups: tuple[int, ...]) -> Masks:
    """The masks of the gated layers, as `nodes.pruning.cost` takes them."""
    parts = np.split(masks_ng > 0, np.cumsum(groups)[:-1], axis=1)
    return {f"convs.{index}": part for index, part in enumerate(parts) if index}


def macs_of(row: Recorded) -> NDArray[np.int64]:
    """Honest multiply-accumulates of each recorded image."""
    assert row.masks_ng is not None
    return sample_macs(layers_of_plan(row.plan), named_masks(row.masks_ng, row.groups), len(row.masks_ng))


@dataclass(frozen=True, eq=False)
class Shaped:
    """Random weights of some shapes, whole groups or not; what `onnx_convs.chain` needs."""

    steps: tuple[Step, ...]
    head_pc: Any
    head_bias_p: Any
    side: int
    inputs: int = 3


def random_weights(plan: tuple[int | str, ...], *, side: int = 32) -> Shaped:
    """The same shapes with random weights: as fast, and knows nothing."""
    chance, inputs = np.random.default_rng(0), 3
    steps: list[Step] = []
    for position, width in enumerate(plan):
        if width == "M":
            continue
        outputs, halve = int(width), plan[position + 1 : position + 2] == ("M",)
        weights = chance.standard_normal((outputs, inputs, 3, 3), dtype=np.float32) / np.float32(np.sqrt(4.5 * inputs))
        bias = np.float32(0.1) * chance.standard_normal(outputs, dtype=np.float32)
        groups = -(-outputs // GROUP)
        predictor = Predictor(chance.standard_normal((groups, inputs), dtype=np.float32), np.zeros(groups, np.float32))
        steps.append(Step(weights, bias, halve=halve, predictor=predictor if steps else None))
        inputs = outputs
    head = chance.standard_normal((10, inputs), dtype=np.float32)
    return Shaped(tuple(steps), head, np.zeros(10, np.float32), side)


def random_plan(plan: tuple[int | str, ...]) -> ChainPlan:
    """Random weights as a plan of the kernels; every width a multiple of 16."""
    made = random_weights(plan)
    return ChainPlan(made.steps, made.head_pc, made.head_bias_p, made.side)


def record(path: Path, folder: Path = FOLDER) -> None:
    """Write what is committed of a checkpoint. Needs torch and the test images."""
    from kernels.chain.cpu import Chain
    from nodes.pruning.checkpoints import load
    from nodes.pruning.commands import cifar_folder
    from nodes.pruning.export import plan_of
    from nodes.pruning.gates import Masking, set_masking
    from nodes.pruning.images import read_cifar_test

    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.with_suffix(".json").read_text())
    content["checkpoint_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    checkpoint = load(path)
    if "mass" in checkpoint.facts:
        set_masking(checkpoint.network, Masking.PREDICTED)
        test = read_cifar_test(cifar_folder(None))
        plan = plan_of(checkpoint.network, side=checkpoint.net.side)
        found_nc, used_ng = Chain(plan)(test.images_nchw[:IMAGES])
        right = found_nc.argmax(axis=1) == test.labels_n[:IMAGES]
        content["facts"]["served_accuracy_500"] = float(right.mean())
        write_arrays(folder / f"{path.stem}.npz", {"masks": np.packbits(used_ng, axis=1)})
    (folder / f"{path.stem}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(Path(argument))
