"""What a budget comes to: a mass for gates, a share of filters for static methods; one out of reach is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nodes.errors import ConfigError
from nodes.pruning.architectures import Served
from nodes.pruning.budget import Forecast
from nodes.pruning.gates import gates_of
from nodes.pruning.mass import GROUP
from nodes.pruning.rows import Data, example, prepare
from nodes.pruning.static import Cuttable, Cutter
from nodes.pruning.timing import TRIES, Clock, plain_ms
from nodes.pruning.tracing import layers_of

# Bisections end this close to what was asked for.
_ROUNDING = 1e-9


def mass_for(network: nn.Module, data: Data, given: Mapping[str, Any]) -> float:
    """The mass that was asked for, or the largest that meets the budget.

    Raises:
        ConfigError: No mass meets it, or the network has no time because it cannot be served.
    """
    if given["mass"] is not None:
        return float(given["mass"])
    if given["target_macs"] is not None:
        forecast = Forecast(network, layers_of(network, example(data)), data.surveyed)
        mass = forecast.mass_for(1.0 - given["target_macs"])
        _require_share(given["target_macs"], 1.0 - forecast.reduction(mass))
        return mass
    if not isinstance(network, Served) or {gate.group for gate in gates_of(network).values()} != {GROUP}:
        raise ConfigError("--target-ms: what cannot be served (lenet5, single filters) has no time; use --target-macs")
    clock = Clock(network, data.surveyed)
    mass = clock.mass_for(given["target_ms"])
    if mass == 0.0:
        _require_time(given["target_ms"], clock.ms(mass))
    return mass


def share_for(cutter: Cutter, dense: Cuttable, data: Data, given: Mapping[str, Any]) -> float:
    """The share of the filters that stays; of a mass, as many as save what the mass would save dynamically.

    Raises:
        ConfigError: No share meets the budget.
    """
    if given["target_macs"] is not None:
        share = cutter.share_saving(1.0 - given["target_macs"])
        _require_share(given["target_macs"], 1.0 - cutter.saved(cutter.at(share)))
        return share
    if given["mass"] is not None:
        gated = prepare(dense, data)
        return cutter.share_saving(
            Forecast(gated, layers_of(gated, example(data)), data.surveyed).reduction(given["mass"])
        )
    image = data.surveyed
    share = cutter.share_for(lambda network: plain_ms(network, image) <= given["target_ms"], tries=TRIES)
    if share == 0.0:
        _require_time(given["target_ms"], plain_ms(cutter.at(share), image))
    return share


def _require_share(wanted: float, least: float) -> None:
    if least > wanted + _ROUNDING:
        raise ConfigError(
            f"--target-macs {wanted:g}: pruned as far as it goes this network still takes {least:.3f} of its work "
            "(each layer keeps a group of filters, and whatever is never pruned is counted). "
            f"Ask for {_above(least)} or more, or train a wider network"
        )


def _require_time(wanted_ms: float, least_ms: float) -> None:
    if least_ms > wanted_ms:
        raise ConfigError(
            f"--target-ms {wanted_ms:g}: pruned as far as it goes this network takes {least_ms:.3g} ms here. "
            "Ask for more, or train a narrower network"
        )


def _above(least: float) -> str:
    return f"{min(1.0, least + 0.0051):.2f}"
