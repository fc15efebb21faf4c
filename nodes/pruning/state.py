"""What a stopped training goes on from, kept after every epoch: arrays only, so that reading it can run nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nodes.errors import ConfigError
from nodes.zoo.arrays import read_arrays, write_arrays

if TYPE_CHECKING:
    from nodes.pruning.training import Course


def weights_of(network: nn.Module) -> dict[str, np.ndarray]:
    """All weights by name."""
    return {name: value.cpu().numpy() for name, value in network.state_dict().items()}


def put_weights(network: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Load what `weights_of` gave."""
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def write_state(network: nn.Module, optimizer: torch.optim.Optimizer, course: Course, epochs: int) -> None:
    """Keep everything after so many epochs; the new file replaces the old one in one step."""
    state = course.state
    if state is None:
        return
    arrays = {f"weight/{name}": value for name, value in weights_of(network).items()}
    for key, buffers in optimizer.state_dict()["state"].items():
        if buffers.get("momentum_buffer") is not None:
            arrays[f"momentum/{key}"] = buffers["momentum_buffer"].cpu().numpy()
    arrays |= {"epochs": np.array([epochs]), "purpose": np.array([course.purpose])}
    if course.setting is not None:
        arrays["setting"] = np.array([course.setting])
    state.parent.mkdir(parents=True, exist_ok=True)
    fresh = state.with_suffix(".new")
    write_arrays(fresh, arrays)
    fresh.replace(state)


def catch_up(cycle: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
    """Take the steps that were made before the stop."""
    with warnings.catch_warnings():
        # It warns of steps without the optimizer's, which were made before the stop.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(steps):
            cycle.step()


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, course: Course) -> int:
    """Put back what was kept; returns the epochs that are done.

    Raises:
        ConfigError: The training had another purpose, or its state is damaged.
    """
    state = course.state
    if state is None or not state.exists():
        return 0
    arrays = _state_of(state, course.purpose)
    put_weights(network, {key[7:]: value for key, value in arrays.items() if key.startswith("weight/")})
    held = optimizer.state_dict()
    held["state"] = {
        int(key[9:]): {"momentum_buffer": torch.from_numpy(value)}
        for key, value in arrays.items()
        if key.startswith("momentum/")
    }
    optimizer.load_state_dict(held)
    return int(arrays["epochs"][0])


def setting_of(state: Path, purpose: str) -> float | None:
    """The setting of a stopped training; None where there is none.

    Raises:
        ConfigError: The training had another purpose, or its state is damaged.
    """
    arrays = _state_of(state, purpose) if state.exists() else {}
    return float(arrays["setting"][0]) if "setting" in arrays else None


def _state_of(state: Path, purpose: str) -> Mapping[str, np.ndarray]:
    try:
        arrays = read_arrays(state)
        found = str(arrays["purpose"][0])
    except (ValueError, KeyError) as damage:
        raise ConfigError(
            f"{state}: the state of a stopped training, but damaged ({damage}). Delete that file to begin anew"
        ) from damage
    if found != purpose:
        raise ConfigError(
            f"{state}: the training that was stopped here was another one ({found}; now {purpose}). "
            "Repeat its command, choose another --to, or delete that file"
        )
    return arrays
