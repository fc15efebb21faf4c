"""What the commands do, with torch at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.chain.plan import ChainPlan
from kernels.native.library import available
from nodes.errors import ConfigError
from nodes.pruning.architectures import BUILDERS, Chain, Served
from nodes.pruning.budget import Forecast, put_thresholds
from nodes.pruning.checkpoints import Checkpoint, Net, load, net_after, net_of_chain, regrouped, save
from nodes.pruning.commands import FTWT, cifar_folder
from nodes.pruning.cost import dense_macs
from nodes.pruning.export import plan_of, write_chain
from nodes.pruning.gates import Masking, set_masking
from nodes.pruning.goals import mass_for, share_for
from nodes.pruning.images import Images, read_cifar
from nodes.pruning.mass import GROUP
from nodes.pruning.rows import Data, example, prepare, prune, prune_statically
from nodes.pruning.state import setting_of
from nodes.pruning.static import Cuttable, Cutter, Method
from nodes.pruning.timing import Clock, plain_ms, served_ms
from nodes.pruning.tracing import layers_of
from nodes.pruning.training import Course, Report, Schedule, accuracy, train

DIGITS_SIDE = 8
# What may differ when a stopped training goes on.
_BESIDE = ("to", "data", "source", "device")


def train_dense(given: Mapping[str, Any], *, report: Report) -> Checkpoint:
    """Train a network from nothing and save it."""
    torch.manual_seed(given["seed"])
    group = given["group"] or GROUP
    network = BUILDERS[given["net"]](width=given["width"], group=group)
    side = DIGITS_SIDE if given["net"] == "digits" else 32
    other = Net(given["net"], side=side, group=group, width=given["width"])
    net = net_of_chain(network, side=side) if isinstance(network, Chain) else other
    data = data_of(net, given["data"])
    course = Course(_schedule(given), state=_state(given), purpose=_purpose(given), device=given["device"])
    train(network, data.train, course, report=report)
    facts = {
        "method": "dense",
        "accuracy": accuracy(network, data.test),
        "reduction": 0.0,
        "dense_macs": dense_macs(layers_of(network, example(data))),
        "epochs": given["epochs"],
    }
    return _saved(given, Checkpoint(net, network, facts))


def train_pruned(given: Mapping[str, Any], *, report: Report) -> Checkpoint:
    """Prune a dense checkpoint to a mass, or to a budget, by whatever method."""
    dense = dense_at(given["source"])
    dense = regrouped(dense, given["group"] or dense.net.group)
    teacher = deepcopy(dense.network) if given["distill"] else None
    course = Course(
        _schedule(given), joint=given["joint"], state=_state(given), teacher=teacher, purpose=_purpose(given)
    )
    course = replace(course, distill=given["distill"], device=given["device"])
    prune_by = _gated if given["method"] == FTWT else _cut
    network, facts = prune_by(dense, data_of(dense.net, given["data"]), course, given, report=report)
    net = net_after(dense.net, network)
    facts |= {"method": given["method"], "distill": given["distill"], "dense_accuracy": dense.facts.get("accuracy")}
    return _saved(given, Checkpoint(net, network, facts))


def _gated(
    dense: Checkpoint, data: Data, course: Course, given: Mapping[str, Any], *, report: Report
) -> tuple[torch.nn.Module, dict[str, Any]]:
    torch.manual_seed(given["seed"] + 1)
    network = prepare(dense.network, data)
    mass = setting_of(_state(given), course.purpose)
    mass = mass_for(network, data, given) if mass is None else mass
    masses = [other for other in given["also_masses"] if other != mass]
    facts = prune(network, data, replace(course, mass=mass, setting=mass), masses=masses, report=report)
    return network, facts


def _cut(
    dense: Checkpoint, data: Data, course: Course, given: Mapping[str, Any], *, report: Report
) -> tuple[torch.nn.Module, dict[str, Any]]:
    if not isinstance(dense.network, Cuttable):
        raise ConfigError(f"--method {given['method']}: no filters of lenet5 are left out for good; take another")
    cutter = Cutter(dense.network, Method(given["method"]), data.train)
    share = setting_of(_state(given), course.purpose)
    share = share_for(cutter, dense.network, data, given) if share is None else share
    network, before = cutter.at(share), dense_macs(layers_of(dense.network, example(data)))
    report(f"{share:.1%} of the filters stay: {cutter.saved(network):.1%} fewer multiply-accumulates")
    facts = prune_statically(network, data, replace(course, setting=share), before_macs=before, report=report)
    return network, facts


def dense_at(path: Path) -> Checkpoint:
    """The checkpoint, which nobody has pruned yet.

    Raises:
        ConfigError: It was, so that neither its work nor its predictors are those to begin from.
    """
    checkpoint = load(path)
    if (method := checkpoint.facts.get("method", "dense")) != "dense":
        raise ConfigError(f"--from {path}: it was pruned already ({method}); name the dense one it came from")
    return checkpoint


@dataclass(frozen=True)
class Foretold:
    """One way to prune, before any training.

    Attributes:
        method: As ``--method`` names it.
        mass: None of a static method.
        saved: Share of the work.
        ms: Of one image here; None where the kernels cannot run the network.
    """

    method: str
    mass: float | None
    saved: float
    ms: float | None


def foretold(checkpoint: Checkpoint, data: Data, masses: Sequence[float]) -> Iterator[Foretold]:
    """Each mass, and after it every static method that saves at least as much."""
    dense = checkpoint.network
    network = prepare(dense, data)
    forecast = Forecast(network, layers_of(network, example(data)), data.surveyed)
    timed = isinstance(network, Served) and checkpoint.net.group == GROUP and available()
    clock = Clock(network, data.surveyed) if timed else None
    cutters = {method: Cutter(dense, method, data.train) for method in Method} if isinstance(dense, Cuttable) else {}
    for mass in masses:
        saved = forecast.reduction(mass)
        yield Foretold(FTWT, mass, saved, clock.ms(mass) if clock else None)
        for method, cutter in cutters.items() if saved > 0 else ():
            small = cutter.at(cutter.share_saving(saved))
            yield Foretold(method.value, None, cutter.saved(small), plain_ms(small, data.surveyed) if timed else None)


def trained(path: Path, data: Data) -> dict[str, Any]:
    """What is known of a checkpoint, and its milliseconds here (None where the kernels cannot run it)."""
    checkpoint = load(path)
    runs = isinstance(checkpoint.network, Served) and available() and checkpoint.net.group == GROUP
    ms = served_ms(_served(checkpoint), data.test.images_nchw) if runs else None
    return {"method": "?", "mass": None, **checkpoint.facts, "name": path.stem, "ms": ms}


def at_mass(checkpoint: Checkpoint, mass: float) -> Checkpoint:
    """A pruned checkpoint at another of the masses that it has thresholds for: an arm of its own, of the same weights.

    Raises:
        ConfigError: It has none for that mass.
    """
    known = {point["mass"]: point for point in checkpoint.facts.get("points", [])}
    if mass == checkpoint.facts.get("mass"):
        return checkpoint
    if mass not in known:
        masses = ", ".join(f"{other:g}" for other in known) or "none"
        raise ConfigError(
            f"--mass {mass:g}: the checkpoint has no thresholds for it, besides its own only for: {masses}"
        )
    put_thresholds(checkpoint.network, known[mass]["thresholds"])
    return replace(checkpoint, facts={**checkpoint.facts, **known[mass]})


def exported(checkpoint: Checkpoint, to: Path, *, input_name: str, output_name: str) -> None:
    """Write the file that a worker runs.

    Raises:
        ConfigError: The kernels cannot run this network.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    write_chain(to, _served(checkpoint), input_name=input_name, output_name=output_name)


def exported_bucket(checkpoint: Checkpoint, to: Path, share: float) -> None:
    """Write an ONNX graph with a fixed number of groups a layer.

    Raises:
        ConfigError: The kernels cannot run this network, or it has no predictors that could choose.
    """
    from nodes.pruning.buckets import bucket

    if "mass" not in checkpoint.facts:
        raise ConfigError("--bucket: the checkpoint has no predictors that could choose; name one of method ftwt")
    graph = bucket(_served(checkpoint), share)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(graph)


def _served(checkpoint: Checkpoint) -> ChainPlan:
    if not isinstance(checkpoint.network, Served):
        raise ConfigError(
            f"export: the kernels run 1x1 and 3x3 convolutions; {checkpoint.net.kind} has others. Take another --net"
        )
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


def _schedule(given: Mapping[str, Any]) -> Schedule:
    photographs = given["net"] != "digits" if given["source"] is None else load(given["source"]).net.side != DIGITS_SIDE
    schedule = Schedule(given["epochs"], given["rate"], bfloat16=given["bfloat16"], seed=given["seed"])
    return schedule if photographs else replace(schedule, batch=32, margin=1, flip=False, decay=1e-3)


def _purpose(given: Mapping[str, Any]) -> str:
    """All that makes a training what it is, short enough to be shown."""
    source = given["source"]
    facts = {name: value for name, value in given.items() if name not in _BESIDE and value}
    if source is not None:
        facts["from"] = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return ", ".join(f"{name} {value}" for name, value in sorted(facts.items()))


def _state(given: Mapping[str, Any]) -> Path:
    to: Path = given["to"]
    return to.with_suffix(".state.npz")


def _saved(given: Mapping[str, Any], checkpoint: Checkpoint) -> Checkpoint:
    # The same command gives the same bytes where these are the same; another split of a sum rounds otherwise.
    built_by = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": given["device"]}
    checkpoint = replace(checkpoint, facts={**checkpoint.facts, **built_by})
    save(given["to"], checkpoint)
    _state(given).unlink(missing_ok=True)
    return checkpoint
