"""From a trained torch network to the ONNX bytes that ship. Shapes: b batch, c classes, h and w pixels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from nodes.zoo.digits.architectures import Classifier
from nodes.zoo.digits.settings import SIDE

# The newest set that ONNX Runtime 1.12 and later read, and with it every runtime in use on a Jetson.
OPSET = 17
INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
TOLERANCE = 1e-5
CHECKED_BATCHES = (1, 7)


class ExportError(Exception):
    """The exported graph does not answer as the network does."""


def export_onnx(network: torch.nn.Module, path: Path) -> None:
    """Write `network` with its softmax as ONNX, then check it against torch.

    Raises:
        ExportError: An answer of the written file differs by more than 1e-5.
    """
    classifier = Classifier(network).eval()
    path.write_bytes(_plain_bytes(classifier))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for batch in CHECKED_BATCHES:
        image_bhw = generator.random((batch, SIDE, SIDE), dtype=np.float32)
        with torch.no_grad():
            expected_bc = classifier(torch.from_numpy(image_bhw)).numpy()
        _compare(path.name, expected_bc, session.run([OUTPUT_NAME], {INPUT_NAME: image_bhw})[0])


def _plain_bytes(classifier: Classifier) -> bytes:
    """Serialise without anything that tells where, or with which version of torch, the file was made."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The graph-capturing exporter starts at opset 18 and writes source paths into the file.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            classifier,
            (torch.zeros(1, SIDE, SIDE),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.producer_name, model.producer_version, model.doc_string = "edgewise", "", ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _compare(name: str, expected_bc: NDArray[np.float32], found_bc: NDArray[np.float32]) -> None:
    difference = float(np.abs(expected_bc - found_bc).max())
    if not difference <= TOLERANCE:
        raise ExportError(f"{name} differs from torch by {difference:.2g}, allowed are {TOLERANCE:g}.")
