"""Options that several of the node's commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from nodes.energy.discovery import EnergyMode
from nodes.energy.profile import profile_names

ENVIRONMENT_PREFIX = "EDGEWISE_NODE_"
Command = TypeVar("Command", bound=Callable[..., Any])


def option(flag: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that is also read from the environment."""
    variable = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(flag, envvar=variable, show_envvar=True, **settings)


def _all(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def profile_option() -> Callable[[Command], Command]:
    """Device profile."""
    return option(
        "--profile",
        metavar="NAME|FILE",
        help=f"Device profile that joules are modelled with: {', '.join(profile_names())}, or a .json file.",
    )


def models_option() -> Callable[[Command], Command]:
    """Folder of experts."""
    return option(
        "--models",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of experts.  [default: the digit classifiers and language models that ship]",
    )


def python_option() -> Callable[[Command], Command]:
    """Interpreter of the engine process."""
    return option(
        "--worker-python",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Interpreter that runs the models; needs Python 3.10, numpy and onnxruntime.  [default: this one]",
    )


def compile_options() -> Callable[[Command], Command]:
    """Compiled forms, and where they are kept."""
    options = [
        option("--compile", multiple=True, metavar="FORMS", help="Compiled forms to offer too: int8,ort or auto."),
        option(
            "--compile-when",
            type=click.Choice(["first", "beside"]),
            help="Before joining, or while the node serves the models as they came.  [default: first]",
        ),
        option("--compile-loss-points", type=float, metavar="P", help="Accuracy that one may lose.  [default: 0.5]"),
        option("--compile-cache", type=click.Path(path_type=Path), metavar="DIR", help="Folder of compiled files."),
        option("--compile-cache-mib", type=int, metavar="MIB", help="What they may take.  [default: 2048]"),
        option(
            "--gpu-python",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Interpreter for forms on a GPU, such as JetPack's own.  [default: that of the models]",
        ),
    ]

    return _all(options)


def measuring_options() -> Callable[[Command], Command]:
    """What runs, and what says how many joules it takes."""
    return _all([python_option(), models_option(), profile_option(), energy_options()])


def energy_options() -> Callable[[Command], Command]:
    """Where joules come from."""
    return _all([_energy_option(), _trace_option(), _calibration_option()])


def _energy_option() -> Callable[[Command], Command]:
    """Source of joules."""
    return option(
        "--energy",
        type=click.Choice([mode.value for mode in EnergyMode]),
        default=EnergyMode.AUTO.value,
        show_default=True,
        help="Where joules come from. auto: a sensor of this machine, else the profile, else they are unmeasured.",
    )


def _trace_option() -> Callable[[Command], Command]:
    """Trace to replay."""
    return option(
        "--energy-trace",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="CSV with time_s and power_w or energy_j, for --energy replay.",
    )


def _calibration_option() -> Callable[[Command], Command]:
    """What a meter at the plug showed."""
    return option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="JSON with factor, offset_w, source: what a meter at the plug showed against a Jetson's own sensors.",
    )
