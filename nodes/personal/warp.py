"""A user's geometry: one affine map that writes a slanted, narrow or turned hand upright. Numpy only.

Closed form, no labels: second moments of the user's ink against those of everybody's give slant, width and height;
what moments cannot see (rotation, and whether the guess helps at all) is decided by the caller among few candidates.
Coordinates run from -1 to 1 over the picture. Shapes: n images, c channels, h and w pixels, t taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal.network import Floats

Affine = NDArray[np.float64]
IDENTITY: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

TURNS = (-0.25, 0.25)
SHARES = (0.5, 1.0)
# A map that shrinks or stretches by more than this is a misreading of few samples.
MAX_STRETCH = 2.5


@dataclass(frozen=True, eq=False)
class Taps:
    """An affine map as four weighted looks per pixel.

    Attributes:
        index_tp: Pixels that are looked at, int64 (4, h*w).
        weight_tp: float32 (4, h*w); 0 outside of the picture.
    """

    index_tp: NDArray[np.int64]
    weight_tp: Floats


def taps(affine: Affine, side: int) -> Taps:
    """The map on pictures of this side. Cost: 4 multiply-accumulates per pixel to apply."""
    at = np.linspace(-1.0, 1.0, side) * (side - 1) / side
    x_p, y_p = (grid.ravel() for grid in np.meshgrid(at, at))
    from_x, from_y = affine @ np.stack([x_p, y_p, np.ones_like(x_p)])
    column, row = (from_x + 1.0) * side / 2 - 0.5, (from_y + 1.0) * side / 2 - 0.5
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    indices, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            x, y = left + right, top + down
            weight = (1.0 - np.abs(column - x)) * (1.0 - np.abs(row - y))
            inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
            weights.append(np.where(inside, weight, 0.0))
            indices.append(np.clip(y, 0, side - 1) * side + np.clip(x, 0, side - 1))
    return Taps(np.stack(indices), np.stack(weights).astype(np.float32))


def apply(images: Floats, affine: Affine) -> Floats:
    """The mapped pictures, (n, h, w) or (n, c, h, w)."""
    side = images.shape[-1]
    flat = images.reshape(*images.shape[:-2], side * side)
    looks = taps(affine, side)
    mapped = sum(flat[..., looks.index_tp[tap]] * looks.weight_tp[tap] for tap in range(4))
    return np.asarray(mapped, np.float32).reshape(images.shape)


def matrix(affine: Affine, side: int) -> Floats:
    """The map as a matrix (pixels, pixels) on flat pictures of this side."""
    looks, pixels = taps(affine, side), side * side
    dense = np.zeros((pixels, pixels), np.float32)
    for tap in range(4):
        np.add.at(dense, (np.arange(pixels), looks.index_tp[tap]), looks.weight_tp[tap])
    return dense


def inverse(affine: Affine) -> Affine:
    """The map back."""
    back = np.linalg.inv(affine[:, :2])
    return np.column_stack([back, -back @ affine[:, 2]])


def candidates(own: Floats, general: Floats) -> Sequence[Affine]:
    """Maps worth trying for a user, the identity first; `own` and `general` are samples (n, h, w)."""
    upright = _upright(own, general)
    return [IDENTITY, *((1.0 - share) * IDENTITY + share * upright for share in SHARES)]


def turns(affine: Affine) -> Sequence[Affine]:
    """The same map for a hand that is also turned, which moments cannot see."""
    return [_turned(affine, turn) for turn in TURNS]


def _turned(affine: Affine, angle: float) -> Affine:
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn @ affine[:, :2], affine[:, 2]])


def _upright(own: Floats, general: Floats) -> Affine:
    """The map from an upright picture to the user's, by matching moments; rows stay rows (slant is a shear)."""
    spread_own, centre_own = _moments(own)
    spread_all, centre_all = _moments(general)
    matched = _rows_first(spread_own) @ np.linalg.inv(_rows_first(spread_all))
    matrix = matched[::-1, ::-1]
    stretch = np.linalg.svd(matrix, compute_uv=False)
    if not np.isfinite(stretch).all() or stretch.max() > MAX_STRETCH or stretch.min() < 1.0 / MAX_STRETCH:
        return IDENTITY
    return np.column_stack([matrix, centre_own - matrix @ centre_all])


def _rows_first(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cholesky factor with y before x."""
    return np.asarray(np.linalg.cholesky(spread[::-1, ::-1] + 1e-6 * np.eye(2)), np.float64)


def _moments(images: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean second moments (x, y) about each picture's own centre, and the mean centre."""
    side = images.shape[-1]
    at = np.linspace(-1.0, 1.0, side) * (side - 1) / side
    ink = np.abs(images.astype(np.float64))
    mass = ink.sum(axis=(1, 2)) + 1e-9
    x, y = (ink.sum(axis=1) @ at) / mass, (ink.sum(axis=2) @ at) / mass
    xx, yy = (ink.sum(axis=1) @ at**2) / mass - x**2, (ink.sum(axis=2) @ at**2) / mass - y**2
    xy = np.einsum("nhw,h,w->n", ink, at, at, optimize=True) / mass - x * y
    spread = np.array([[xx.mean(), xy.mean()], [xy.mean(), yy.mean()]])
    return spread, np.array([x.mean(), y.mean()])
