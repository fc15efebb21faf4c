"""Write the cards that say what a shipped file is and how good it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from nodes.zoo.digits.architectures import Classifier
from nodes.zoo.digits.cost import FLOAT_BYTES, count_cost
from nodes.zoo.digits.export import INPUT_NAME, OUTPUT_NAME
from nodes.zoo.digits.settings import CLASSES, RECIPES, SIDE
from nodes.zoo.digits.splits import Digits

SPLIT = "fold 0 of 5 (stratified, shuffled with seed 0); trained on folds 1 to 4"
MEMORY_NOTE = "file + fp32 weights + outputs of all layers at batch 1; the runtime itself is not included"


def held_out_accuracy(model: Path, digits: Digits) -> float:
    """Share of the held-out digits that ONNX Runtime, one digit at a time, gets right."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images_nhw = digits.images_nhw[digits.held_out_n]
    answers = [session.run([OUTPUT_NAME], {INPUT_NAME: image[None]})[0].argmax() for image in images_nhw]
    return float(np.mean(np.array(answers) == digits.labels_n[digits.held_out_n]))


def write_card(out: Path, expert: str, network: nn.Module, *, accuracy_fraction: float, samples: int) -> None:
    """Write ``<expert>.json`` beside the ONNX file that it describes."""
    model = out / f"{expert}.onnx"
    cost = count_cost(Classifier(network).eval(), torch.zeros(1, SIDE, SIDE))
    memory_bytes = model.stat().st_size + FLOAT_BYTES * cost.parameters + cost.activation_bytes
    card: dict[str, Any] = {
        "name": expert,
        "variant": "onnx-fp32",
        "task": "digits",
        "engine": "onnx",
        "file": model.name,
        "sha256": sha256_of(model),
        "macs": cost.macs,
        "parameters": cost.parameters,
        "memory_bytes": memory_bytes,
        "memory_note": MEMORY_NOTE,
        "quality": {"accuracy_fraction": accuracy_fraction, "samples": samples, "split": SPLIT},
        "evidence_key": expert,
        "recipe": asdict(RECIPES[expert]),
    }
    write_json(out / f"{expert}.json", card)


def write_task(out: Path) -> None:
    """Write ``task.json``: what goes in, what comes out, and which arrays say how good each expert is."""
    files = {name: out / f"{name}.npz" for name in ("reference", "held_out", "evidence")}
    arrays = {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in files.items()}
    task: dict[str, Any] = {
        "name": "digits",
        "input": {"name": INPUT_NAME, "dtype": "float32", "shape": [-1, SIDE, SIDE]},
        "output": {"name": OUTPUT_NAME, "dtype": "float32", "shape": [-1, CLASSES]},
        "labels": [str(digit) for digit in range(CLASSES)],
        "normalisation": "grayscale 8x8, dark background: 0 is background, 1 is full ink",
        "source": "Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI, 1998 (CC BY 4.0)",
        **arrays,
    }
    write_json(out / "task.json", task)


def sha256_of(path: Path) -> str:
    """Digest of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a card."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
