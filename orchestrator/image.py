"""Pictures and .npy files to the tensor that a task wants.

A sample is a grayscale picture of H by W with dark background and bright ink, values 0 to 1. What comes in
differently is brought there by rules that are stated, never guessed silently:

* ``.npy``: shape (H, W), (1, H, W) or (N, H, W), of which one sample is taken. Values up to 1 stay as
  they are; otherwise the largest decides the scale: up to 16 all are divided by 16 (the range of the classic
  8x8 digit scans), up to 255 by 255.
* Pictures: made gray, shrunk by averaging areas, inverted when their border is light (ink must be bright).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import RequestError
from orchestrator.types import TensorSpec

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm"}
LIGHT_BORDER = 0.5


def load_input(path: Path, spec: TensorSpec, *, index: int = 0) -> NDArray[Any]:
    """Read a file as one sample for a task.

    Args:
        path: A picture or a .npy file.
        spec: The task's input; (-1, H, W) or (-1, 1, H, W).
        index: Which sample of an .npy file with several.

    Returns:
        A batch of one, in the specification's shape and dtype.

    Raises:
        RequestError: INPUT_INVALID or SHAPE_MISMATCH; the message says what would be right.
    """
    size = _size(spec)
    content = _read(path)
    if path.suffix.lower() == ".npy":
        sample = scale(_sample(_load_npy(content), index, size))
    elif path.suffix.lower() in PICTURES:
        sample = picture(content, size)
    else:
        raise _invalid(f"{path.name} is neither a .npy file nor a picture ({', '.join(sorted(PICTURES))})")
    shape = tuple(1 if side == -1 else side for side in spec.shape)
    return sample.astype(spec.dtype).reshape(shape)


def scale(sample: NDArray[Any]) -> NDArray[np.float64]:
    """Bring values to 0..1 by the largest of them, see the module's text.

    Raises:
        RequestError: A value is negative, above 255 or not finite.
    """
    values = sample.astype(np.float64)
    if not np.isfinite(values).all():
        raise RequestError("INPUT_NOT_FINITE", "The file holds NaN or infinity; pixels must be finite numbers.")
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 255.0:
        raise _invalid("pixel values must lie within 0..1, 0..16 or 0..255")
    if high <= 1.0:
        return values
    scaled: NDArray[np.float64] = values / (16.0 if high <= 16.0 else 255.0)
    return scaled


def picture(content: bytes, size: tuple[int, int]) -> NDArray[np.float64]:
    """Decode a picture to (H, W) with bright ink on a dark background, values 0..1.

    Raises:
        RequestError: Pillow is missing, or this is no picture that it can read.
    """
    try:
        from PIL import Image
    except ImportError:
        raise _invalid("pictures need Pillow: pip install 'edgewise[image]', or pass a .npy file") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _invalid(f"the picture has more than {MAX_PIXELS} pixels")
            gray = np.asarray(_on_white(image).convert("L"), dtype=np.float64) / 255.0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise _invalid("the file is no picture that Pillow can read") from None
    bright = 1.0 - gray if border_mean(gray) > LIGHT_BORDER else gray
    return shrink(bright, size)


def shrink(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize (h, w) to (H, W) by averaging areas; exact also where the sides do not divide."""
    rows, columns = (_overlaps(old, new) for old, new in zip(values.shape, size, strict=True))
    averaged: NDArray[np.float64] = np.clip(rows @ values @ columns.T, 0.0, 1.0)
    return averaged


def border_mean(values: NDArray[np.float64]) -> float:
    """Mean brightness of the outermost pixels: what the background looks like."""
    edges = (values[0], values[-1], values[1:-1, 0], values[1:-1, -1])
    return float(np.concatenate(edges).mean())


def _overlaps(old: int, new: int) -> NDArray[np.float64]:
    """(new, old) weights: which share of each new cell is covered by each old one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)[None, :]
    covered: NDArray[np.float64] = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0.0, None)
    weights: NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return weights


def _on_white(image: Any) -> Any:
    """Lay a transparent picture on white paper: its hidden colours are arbitrary."""
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)


def _load_npy(content: bytes) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise _invalid("the file is no .npy array of numbers") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise _invalid("the .npy file must hold one array of real numbers")
    return array


def _sample(array: NDArray[Any], index: int, size: tuple[int, int]) -> NDArray[Any]:
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1:] != size:
        height, width = size
        raise RequestError(
            "SHAPE_MISMATCH",
            f"The array has shape {array.shape}; expected ({height}, {width}) or (N, {height}, {width}).",
        )
    if not 0 <= index < len(array):
        raise _invalid(f"there is no sample {index}: the file holds {len(array)}")
    sample: NDArray[Any] = array[index]
    return sample


def _size(spec: TensorSpec) -> tuple[int, int]:
    if len(spec.shape) < 2 or -1 in spec.shape[-2:] or any(side not in (-1, 1) for side in spec.shape[:-2]):
        raise _invalid("this task does not take pictures; use the Python client to send its tensors")
    return spec.shape[-2], spec.shape[-1]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _invalid(f"cannot read {path}: {(error.strerror or 'unknown cause').lower()}") from None
    if len(content) > MAX_FILE_BYTES:
        raise _invalid(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return content


def _invalid(message: str) -> RequestError:
    return RequestError("INPUT_INVALID", message[0].upper() + message[1:] + ".")
