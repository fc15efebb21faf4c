"""Images to train and to judge with. Shapes: n images, b batch, c channels, h and w pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.errors import ConfigError

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_SPREAD = (0.2470, 0.2435, 0.2616)
TRAINING_FILES = ("cifar10_train_20k.parquet", "cifar10_train_rest_30k.parquet")
TEST_FILE = "cifar10_test.parquet"


@dataclass(frozen=True, eq=False)
class Images:
    """Normalised images (n, c, h, w), float32, and their labels (n,)."""

    images_nchw: NDArray[np.float32]
    labels_n: NDArray[np.int64]


def read_cifar(folder: Path) -> tuple[Images, Images]:
    """Training and test images of CIFAR-10 out of a folder of parquet files.

    Raises:
        ConfigError: A file is missing or damaged, or what reads it is not installed.
    """
    return _read([folder / name for name in TRAINING_FILES]), _read([folder / TEST_FILE])


def read_cifar_test(folder: Path) -> Images:
    """The 10,000 test images alone."""
    return _read([folder / TEST_FILE])


def _read(files: list[Path]) -> Images:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"--data: CIFAR-10 needs {', '.join(missing)}: not there; name the folder of all its files")
    try:
        from PIL import Image, UnidentifiedImageError
        from pyarrow import ArrowException, parquet
    except ImportError as absent:
        raise ConfigError(f"CIFAR-10: {absent}. Run: pip install 'edgewise[image,parquet]'") from absent
    try:
        return _decoded(files, Image.open, parquet.read_table)
    except (ArrowException, UnidentifiedImageError, KeyError) as damage:
        why = str(damage).splitlines()[0]
        raise ConfigError(f"--data: a file in {files[0].parent} is damaged or is not CIFAR-10 ({why})") from damage


def _decoded(files: list[Path], picture: Callable[..., Any], table_of: Callable[..., Any]) -> Images:
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for file in files:
        table = table_of(file, columns=["label", "jpeg"])
        labels += table.column("label").to_pylist()
        pixels += [np.asarray(picture(io.BytesIO(raw))) for raw in table.column("jpeg").to_pylist()]
    unit_nhwc = np.stack(pixels).astype(np.float32) / 255
    normal_nhwc = (unit_nhwc - np.array(CIFAR_MEAN, dtype=np.float32)) / np.array(CIFAR_SPREAD, dtype=np.float32)
    return Images(np.ascontiguousarray(normal_nhwc.transpose(0, 3, 1, 2)), np.array(labels, dtype=np.int64))
