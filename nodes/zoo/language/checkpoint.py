"""A training on disk: arrays and numbers only, so that reading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nodes.zoo.arrays import read_arrays, write_arrays


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    questions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def save(path: Path, progress: Progress, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Write a training; the file is whole or the old one, whatever happens meanwhile."""
    arrays = {f"weight/{name}": value.detach().numpy() for name, value in network.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{number}/{index}/{name}": value.numpy() for name, value in values.items()}
    arrays["progress"] = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    fresh = path.with_suffix(".new")
    write_arrays(fresh, arrays)
    fresh.replace(path)


def restore(path: Path, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Bring network and optimizers to where the file left off.

    Raises:
        ValueError: if the file is damaged.
        RuntimeError: if it is of another network.
    """
    arrays = read_arrays(path)
    weights = {name: array for name, array in arrays.items() if name.startswith("weight/")}
    network.load_state_dict({name.removeprefix("weight/"): torch.from_numpy(array) for name, array in weights.items()})
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith(f"optimizer/{number}/"):
                index, name = key.split("/")[2:]
                # An array in a file has at least one dimension; the count of steps has none.
                value = torch.from_numpy(array)
                states.setdefault(int(index), {})[name] = value.squeeze() if name == "step" else value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads(arrays["progress"].tobytes()))
