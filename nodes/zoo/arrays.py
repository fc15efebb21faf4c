"""Arrays in files: written with the same bytes every time, read without executing anything.

Shapes: n rows, c classes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# numpy.savez stamps the time of day into the archive, so that equal arrays would get different digests.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed .npz whose bytes depend on the arrays alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(arrays[name]), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an .npz.

    Raises:
        ValueError: An entry holds objects, which only code could rebuild, or the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as damage:
        raise ValueError(f"{path.name} is not a readable .npz archive of plain arrays.") from damage


def restore_probabilities(halves_nc: NDArray[np.float16]) -> NDArray[np.float32]:
    """Undo what storing probabilities in half precision costs.

    Near 1 half precision steps by 0.0005, but small numbers keep three digits. The largest entry of each row
    is therefore rebuilt as one minus the others, which brings confidences such as 0.99993 back.

    Shapes: (..., c) in and out; rows of zeros stay zero.
    """
    probabilities_nc = halves_nc.astype(np.float32)
    winner_n1 = halves_nc.argmax(axis=-1)[..., np.newaxis]
    largest_n1 = np.take_along_axis(probabilities_nc, winner_n1, axis=-1)
    np.put_along_axis(probabilities_nc, winner_n1, np.zeros_like(largest_n1), axis=-1)
    rest_n1 = probabilities_nc.sum(axis=-1, keepdims=True)
    rebuilt_n1 = np.where(largest_n1 > 0, 1 - rest_n1, 0).astype(np.float32)
    np.put_along_axis(probabilities_nc, winner_n1, rebuilt_n1, axis=-1)
    return probabilities_nc
