"""Which of the two modules stands behind a runtime's name; they have one interface, and we use what both offer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from nodes.worker.providers import LoadRefused

MODULES: Mapping[str, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def tensorrt_module(runtime: str) -> Any:
    """The module of a runtime.

    Raises:
        LoadRefused: It is not installed, or its libraries cannot be loaded.
    """
    name = MODULES[runtime]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise LoadRefused(f"the module {name} cannot be used here: {error}") from error


def quiet_logger(module: Any) -> Any:
    """A logger that prints errors only."""
    return module.Logger(module.Logger.ERROR)
