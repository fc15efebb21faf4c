"""A small encoder of tensors for the gate: one hidden layer, trained on labels, that says how sure it is.

What a gate wants to know of a picture is how hard it is and of which kind. So the file gives, beside the shares of the
classes, the logarithm of the doubt that is left, the entropy of the shares and the distance between the two largest
scores. Trained with numpy alone, written with the ONNX package.

Heads must not learn from the samples that their encoder was trained on, of which it is surer than of any others: a
table is dealt into a part for the encoder and the rest for the heads.

Shape letters: q samples, n numbers of a sample, h hidden units, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.catalog import Catalog

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The newest set that ONNX Runtime 1.12 and later read.
_OPSET, _IR_VERSION = 17, 8
_RATE, _DECAY, _BATCH, _EPOCHS = 3e-3, 1e-4, 64, 60
_MOMENTUM, _SQUARES = 0.9, 0.999
_LEAST_DOUBT = 1e-4


@dataclass(frozen=True)
class Weights:
    """Of the two layers.

    Args:
        first_nh: Into the hidden units.
        bias_h: Likewise.
        second_hc: From them to the classes' scores.
        bias_c: Likewise.
    """

    first_nh: Floats
    bias_h: Floats
    second_hc: Floats
    bias_c: Floats

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return int(self.first_nh.size + self.second_hc.size)

    def arrays(self) -> list[Floats]:
        """All of them."""
        return [self.first_nh, self.bias_h, self.second_hc, self.bias_c]


def train_encoder(x_qn: Floats, label_q: Ints, *, hidden: int = 32, seed: int = 0) -> Weights:
    """Fit the network with Adam; the same samples and seed give the same bits on one machine.

    Cost: 1 s for 700 samples of 64 numbers.
    """
    rng = np.random.default_rng(seed)
    numbers, classes = x_qn.shape[1], int(label_q.max()) + 1
    weights = [
        rng.normal(scale=np.sqrt(2.0 / numbers), size=(numbers, hidden)),
        np.zeros(hidden),
        rng.normal(scale=np.sqrt(1.0 / hidden), size=(hidden, classes)),
        np.zeros(classes),
    ]
    mean = [np.zeros_like(array) for array in weights]
    square = [np.zeros_like(array) for array in weights]
    step = 0
    for _ in range(_EPOCHS):
        order_q = rng.permutation(len(x_qn))
        for start in range(0, len(order_q), _BATCH):
            step += 1
            rows = order_q[start : start + _BATCH]
            for k, slope in enumerate(_slopes(weights, x_qn[rows], label_q[rows])):
                mean[k] = _MOMENTUM * mean[k] + (1.0 - _MOMENTUM) * slope
                square[k] = _SQUARES * square[k] + (1.0 - _SQUARES) * slope**2
                pace = mean[k] / (1.0 - _MOMENTUM**step) / (np.sqrt(square[k] / (1.0 - _SQUARES**step)) + 1e-8)
                weights[k] = weights[k] - _RATE * (pace + _DECAY * weights[k])
    return Weights(*weights)


def _slopes(weights: list[Floats], x_qn: Floats, label_q: Ints) -> list[Floats]:
    """Of the mean cross-entropy in each array."""
    first_nh, bias_h, second_hc, bias_c = weights
    hidden_qh = np.maximum(x_qn @ first_nh + bias_h, 0.0)
    score_qc = hidden_qh @ second_hc + bias_c
    share_qc = np.exp(score_qc - score_qc.max(axis=1, keepdims=True))
    share_qc /= share_qc.sum(axis=1, keepdims=True)
    share_qc[np.arange(len(label_q)), label_q] -= 1.0
    share_qc /= len(label_q)
    back_qh = (share_qc @ second_hc.T) * (hidden_qh > 0.0)
    return [x_qn.T @ back_qh, back_qh.sum(axis=0), hidden_qh.T @ share_qc, share_qc.sum(axis=0)]


def export_encoder(weights: Weights, sides: tuple[int, ...], path: Path) -> None:
    """Write the encoder: (batch, *sides) of floats to (batch, 3 + classes): doubt, entropy, distance, shares."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = {
        "flat": np.array([0, -1]),
        "first": weights.first_nh.astype(np.float32),
        "bias1": weights.bias_h.astype(np.float32),
        "second": weights.second_hc.astype(np.float32),
        "bias2": weights.bias_c.astype(np.float32),
        "two": np.array([2]),
        "axis": np.array([1]),
        "one": np.array(1.0 + _LEAST_DOUBT, dtype=np.float32),
        "least": np.array(1e-12, dtype=np.float32),
        "turn": np.array([[1.0], [-1.0]], dtype=np.float32),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Reshape", ["tensor", "flat"], ["row"], {}),
        ("Gemm", ["row", "first", "bias1"], ["sum"], {}),
        ("Relu", ["sum"], ["hidden"], {}),
        ("Gemm", ["hidden", "second", "bias2"], ["score"], {}),
        ("Softmax", ["score"], ["share"], {"axis": 1}),
        ("ReduceMax", ["share"], ["largest"], {"axes": [1], "keepdims": 1}),
        ("Sub", ["one", "largest"], ["left"], {}),
        ("Log", ["left"], ["doubt"], {}),
        ("Add", ["share", "least"], ["kept"], {}),
        ("Log", ["kept"], ["log"], {}),
        ("Mul", ["share", "log"], ["parts"], {}),
        ("ReduceSum", ["parts", "axis"], ["information"], {"keepdims": 1}),
        ("Neg", ["information"], ["entropy"], {}),
        ("TopK", ["score", "two"], ["best", "places"], {"axis": 1}),
        ("MatMul", ["best", "turn"], ["distance"], {}),
        ("Concat", ["doubt", "entropy", "distance", "share"], ["embedding"], {"axis": 1}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **settings) for kind, given, made, settings in steps],
        "encoder",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["batch", *sides])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3 + len(weights.bias_c)])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="edgewise")
    made.ir_version = _IR_VERSION
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString(deterministic=True))


def tensor_table(catalog: Catalog) -> dict[str, NDArray[np.generic]]:
    """What the catalogue's experts made of its reference set, as `edgewise gate train --table` reads it, with labels.

    Raises:
        CatalogError: As in `Catalog.evidence`.
    """
    samples = catalog.reference
    answers = [catalog.evidence(card).argmax(axis=1) for card in catalog.experts]
    right_qe = np.column_stack([answer_q == samples.labels_n for answer_q in answers])
    return {
        "task": np.array(catalog.task.name),
        "inputs": samples.inputs,
        "labels": samples.labels_n.astype(np.int64),
        "experts": np.array([card.name for card in catalog.experts], dtype=np.str_),
        "quality": right_qe.astype(np.float64),
    }


def dealt(
    table: dict[str, NDArray[np.generic]], share: float, *, seed: int = 0
) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]:
    """A share of a table's samples, and the rest."""
    order_q = np.random.default_rng(seed).permutation(len(table["inputs"]))
    cut = round(share * len(order_q))

    def rows(kept_q: Ints) -> dict[str, NDArray[np.generic]]:
        per_sample = ("inputs", "labels", "quality")
        return {name: array[np.sort(kept_q)] if name in per_sample else array for name, array in table.items()}

    return rows(order_q[:cut]), rows(order_q[cut:])
