"""Folders that can be pushed, made of the experts that ship."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.catalog import load_catalog


def safetensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    """A file of float32 tensors."""
    header: dict[str, Any] = {}
    body = b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def expert_folder(folder: Path, name: str = "my-expert", *, of: str = "digits-mlp", evidence: bool = True) -> Path:
    """A shipped expert under another name, with its evidence, as somebody would push it."""
    catalog = load_catalog()
    card = catalog.expert(of)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(catalog.model_path(card), folder / "model.onnx")
    told: dict[str, Any] = {
        "name": name,
        "task": "digits",
        "macs": card.macs,
        "quality": {"accuracy_fraction": card.quality.accuracy_fraction, "samples": card.quality.samples},
    }
    if evidence:
        (folder / "evidence.safetensors").write_bytes(safetensors({"outputs": catalog.evidence(card)}))
        told["evidence"] = "evidence.safetensors"
    (folder / "expert.json").write_text(json.dumps(told))
    return folder
