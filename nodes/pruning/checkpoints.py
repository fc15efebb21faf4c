"""Trained networks in files: weights as arrays, what they mean as JSON beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from nodes.errors import ConfigError
from nodes.pruning.architectures import BUILDERS, Chain, MobileNet, ResNet
from nodes.pruning.mass import GROUP
from nodes.pruning.state import put_weights, weights_of
from nodes.zoo.arrays import read_arrays, write_arrays


@dataclass(frozen=True)
class Net:
    """Which network some weights belong to.

    Attributes:
        kind: "chain", or a name in `BUILDERS`.
        plan: Of a chain, see `Chain`; of another that lost channels in its blocks, those that stay.
        inputs: Channels of the image.
        side: Pixels of the image's side.
        rank: Of the predictors; None for a full map.
        group: Filters that one decision of a gate stands for.
        width: Share of the channels, of a name in `BUILDERS`.
    """

    kind: str
    plan: tuple[int | str, ...] = ()
    inputs: int = 3
    classes: int = 10
    side: int = 32
    rank: int | None = None
    group: int = GROUP
    width: float = 1.0

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        if self.kind == "chain":
            return Chain(self.plan, inputs=self.inputs, classes=self.classes, rank=self.rank, group=self.group)
        cut = {"channels" if self.kind == "mobilenet" else "inner": self.plan} if self.plan else {}
        return BUILDERS[self.kind](width=self.width, classes=self.classes, rank=self.rank, group=self.group, **cut)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and what is known about it.

    Attributes:
        facts: How it was trained and how good it is.
    """

    net: Net
    network: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)


def net_after(before: Net, network: nn.Module) -> Net:
    """What a network is that was made of another's, whatever has been cut out of it."""
    if isinstance(network, Chain):
        return net_of_chain(network, side=before.side)
    if isinstance(network, MobileNet):
        return replace(before, plan=network.channels)
    return replace(before, plan=network.inner) if isinstance(network, ResNet) else before


def net_of_chain(network: Chain, *, side: int) -> Net:
    """What a chain is, whatever has been cut out of it."""
    plan: list[int | str] = []
    for conv, halve in zip(network.convs, network.halves, strict=True):
        plan += [conv.conv.out_channels, "M"] if halve else [conv.conv.out_channels]
    inputs, classes = network.convs[0].conv.in_channels, network.head.out_features
    return Net("chain", tuple(plan), inputs, classes, side, rank=network.rank, group=network.group)


def regrouped(checkpoint: Checkpoint, group: int) -> Checkpoint:
    """The same network with fresh gates that decide about so many filters at once."""
    if checkpoint.net.group == group:
        return checkpoint
    net = replace(checkpoint.net, group=group)
    network = net.build()
    kept = {name: value for name, value in checkpoint.network.state_dict().items() if ".gate." not in name}
    network.load_state_dict(kept, strict=False)
    return Checkpoint(net, network.eval(), checkpoint.facts)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``path`` (.npz) and the JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, weights_of(checkpoint.network))
    content = {"net": asdict(checkpoint.net), "facts": checkpoint.facts}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote, in evaluation mode.

    Raises:
        ConfigError: Nobody wrote it, one of its two files is missing, or it is damaged.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise ConfigError(
                f"{path}: {file} is not there. A checkpoint is two files, NAME.npz and NAME.json beside it, "
                "as `edgewise prune train` writes them"
            )
    try:
        content = json.loads(beside.read_text())
        net = Net(**{**content["net"], "plan": tuple(content["net"]["plan"])})
        network = net.build()
        put_weights(network, read_arrays(path))
        return Checkpoint(net, network.eval(), dict(content["facts"]))
    except (ValueError, KeyError, TypeError, RuntimeError) as damage:
        why = str(damage).splitlines()[0].rstrip(":.")
        raise ConfigError(
            f"{path}: not a checkpoint of `edgewise prune train`, or damaged ({type(damage).__name__}: {why}). "
            f"Copy {path.name} and {beside.name} here again, or train it again"
        ) from damage
