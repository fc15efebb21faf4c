"""Opens the compile room: cache, workbenches and pipeline as the settings have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodes.compile.bench import GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.pipeline import Bounds, Pipeline
from nodes.compile.seal import node_key
from nodes.identity.folder import default_root

MIB = 1024 * 1024


@dataclass(frozen=True)
class Tools:
    """Where things are.

    Attributes:
        gpu_python: None for `python`.
        cache: Folder; None for the usual one.
    """

    python: Path
    gpu_python: Path | None = None
    cache: Path | None = None
    cache_mib: int = 2048


def default_cache() -> Path:
    """Folder of compiled files of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "~")) / ".cache"
    return Path(base).expanduser() / "edgewise" / "engines"


def open_cache(folder: Path | None, cache_mib: int) -> Cache:
    """The cache with this node's key.

    Raises:
        CompileError: Folder or key cannot be used.
    """
    return Cache(folder or default_cache(), node_key(default_root(os.environ)), quota_bytes=cache_mib * MIB)


@contextmanager
def pipeline(tools: Tools, bounds: Bounds, progress: Callable[[str], None]) -> Iterator[Pipeline]:
    """A pipeline; its processes end with the block.

    Raises:
        CompileError: Folder or key of the cache cannot be used.
    """
    cache = open_cache(tools.cache, tools.cache_mib)
    with (
        Workbench(tools.python, "nodes.worker.main") as cpu,
        Workbench(tools.gpu_python or tools.python, GPU_SERVE) as gpu,
    ):
        yield Pipeline(cache, cpu, gpu, bounds=bounds, progress=progress)
