"""What the commands do, with torch at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.chain.plan import ChainPlan
from kernels.native.library import available
from nodes.errors import ConfigError
from nodes.pruning.architectures import BUILDERS, Chain
from nodes.pruning.budget import Forecast
from nodes.pruning.checkpoints import Checkpoint, Net, load, net_of_chain, save
from nodes.pruning.commands import cifar_folder
from nodes.pruning.cost import dense_macs
from nodes.pruning.export import plan_of, write_chain
from nodes.pruning.gates import Masking, set_masking
from nodes.pruning.images import Images, read_cifar
from nodes.pruning.rows import Data, example, prepare, prune
from nodes.pruning.timing import Clock
from nodes.pruning.tracing import layers_of
from nodes.pruning.training import Course, Report, Schedule, accuracy, train

DIGITS_SIDE = 8


def train_dense(given: Mapping[str, Any], *, report: Report) -> Checkpoint:
    """Train a network from nothing and save it."""
    torch.manual_seed(0)
    network = BUILDERS[given["net"]](width=given["width"]) if "resnet" not in given["net"] else BUILDERS[given["net"]]()
    side = DIGITS_SIDE if given["net"] == "digits" else 32
    net = net_of_chain(network, side=side) if isinstance(network, Chain) else Net(given["net"], side=side)
    data = data_of(net, given["data"])
    train(network, data.train, Course(_schedule(given), state=_state(given)), report=report)
    facts = {
        "accuracy": accuracy(network, data.test),
        "reduction": 0.0,
        "dense_macs": dense_macs(layers_of(network, example(data))),
        "epochs": given["epochs"],
    }
    return _saved(given, Checkpoint(net, network, facts))


def train_pruned(given: Mapping[str, Any], *, report: Report) -> Checkpoint:
    """Prune a dense checkpoint to a mass, or to the mass that meets a budget."""
    dense = load(given["source"])
    data = data_of(dense.net, given["data"])
    network = prepare(dense.network, data) if isinstance(dense.network, Chain) else dense.network
    mass = given["mass"] if given["mass"] is not None else _mass_for(network, data, given)
    torch.manual_seed(1)
    course = Course(_schedule(given), mass=mass, joint=given["joint"], state=_state(given))
    facts = prune(network, data, course, report=report)
    net = net_of_chain(network, side=dense.net.side) if isinstance(network, Chain) else dense.net
    return _saved(given, Checkpoint(net, network, facts))


def foretold(
    checkpoint: Checkpoint, data: Data, masses: Sequence[float]
) -> Iterator[tuple[float, float, float | None]]:
    """Mass, share of the work saved, and milliseconds where the kernels can run the network."""
    network = checkpoint.network
    if isinstance(network, Chain):
        network = prepare(network, data)
    forecast = Forecast(network, layers_of(network, example(data)), data.surveyed)
    clock = Clock(network, data.surveyed) if isinstance(network, Chain) and available() else None
    for mass in masses:
        yield mass, forecast.reduction(mass), clock.ms(mass) if clock else None


def exported(checkpoint: Checkpoint, to: Path, *, input_name: str, output_name: str) -> None:
    """Write the file that a worker runs.

    Raises:
        ConfigError: Only chains are served.
    """
    write_chain(to, _served(checkpoint), input_name=input_name, output_name=output_name)


def exported_bucket(checkpoint: Checkpoint, to: Path, share: float) -> None:
    """Write an ONNX graph with a fixed number of groups a layer.

    Raises:
        ConfigError: Only chains are served.
    """
    from nodes.pruning.buckets import bucket

    to.write_bytes(bucket(_served(checkpoint), share))


def _served(checkpoint: Checkpoint) -> ChainPlan:
    if not isinstance(checkpoint.network, Chain):
        raise ConfigError("export: only chains (vgg16, digits) can be served; residual networks cannot yet")
    set_masking(checkpoint.network, Masking.PREDICTED if "mass" in checkpoint.facts else Masking.OFF)
    return plan_of(checkpoint.network, side=checkpoint.net.side)


def data_of(net: Net, folder: Path | None) -> Data:
    """The images that a network is for: the digits that scikit-learn bundles, or CIFAR-10."""
    if net.side != DIGITS_SIDE:
        return Data(*read_cifar(cifar_folder(folder)))
    from nodes.zoo.digits.splits import load_digits_with_folds

    digits = load_digits_with_folds()
    parts = (~digits.held_out_n, digits.held_out_n)
    return Data(
        *(Images(np.ascontiguousarray(digits.images_nhw[rows][:, None]), digits.labels_n[rows]) for rows in parts)
    )


def _mass_for(network: torch.nn.Module, data: Data, given: Mapping[str, Any]) -> float:
    if given["target_macs"] is not None:
        forecast = Forecast(network, layers_of(network, example(data)), data.surveyed)
        return forecast.mass_for(1.0 - given["target_macs"])
    if not isinstance(network, Chain):
        raise ConfigError("--target-ms: only chains (vgg16, digits) can be timed; use --target-macs")
    return Clock(network, data.surveyed).mass_for(given["target_ms"])


def _schedule(given: Mapping[str, Any]) -> Schedule:
    photographs = given["net"] != "digits" if given["source"] is None else load(given["source"]).net.side != DIGITS_SIDE
    schedule = Schedule(given["epochs"], given["rate"], bfloat16=given["bfloat16"])
    return schedule if photographs else replace(schedule, batch=32, margin=1, flip=False, decay=1e-3)


def _state(given: Mapping[str, Any]) -> Path:
    to: Path = given["to"]
    return to.with_suffix(".state.npz")


def _saved(given: Mapping[str, Any], checkpoint: Checkpoint) -> Checkpoint:
    save(given["to"], checkpoint)
    _state(given).unlink(missing_ok=True)
    return checkpoint
