"""Synthetic writers: digits as somebody else would write them. Numpy only.

A writer slants, turns, stretches and thickens every digit and has habits of their own for some of them, such as a bar
through the seven. Shapes: n images, h and w pixels; ink is 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_HABITS = ("bar", "mirror", "flip", "underline")


@dataclass(frozen=True)
class Writer:
    """How somebody writes.

    Attributes:
        slant: Shear, in heights per width.
        rotation: Radians.
        width: Relative to the usual one.
        height: Relative to the usual one.
        stroke: -1 thin to 1 thick.
        habits: Own symbols by digit.
    """

    slant: float = 0.0
    rotation: float = 0.0
    width: float = 1.0
    height: float = 1.0
    stroke: float = 0.0
    habits: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def draw(cls, seed: int) -> Writer:
        """A writer of their own kind for each seed."""
        rng = np.random.default_rng(seed)
        sign = rng.choice([-1.0, 1.0], size=2)
        digits = rng.choice(10, size=2, replace=False)
        return cls(
            slant=float(sign[0] * rng.uniform(0.25, 0.6)),
            rotation=float(sign[1] * rng.uniform(0.05, 0.3)),
            width=float(rng.uniform(0.65, 1.15)),
            height=float(rng.uniform(0.75, 1.15)),
            stroke=float(rng.uniform(-0.6, 0.8)),
            habits={int(digit): str(rng.choice(_HABITS)) for digit in digits},
        )

    def write(self, images_nhw: Floats, labels_n: NDArray[np.integer]) -> Floats:
        """The same digits in this hand."""
        own_nhw = images_nhw.astype(np.float32, copy=True)
        for digit, habit in self.habits.items():
            mine_n = labels_n == digit
            own_nhw[mine_n] = _DRAW[habit](own_nhw[mine_n])
        warped_nhw = _warp(own_nhw, self._inverse())
        return np.clip(_stroke(warped_nhw, self.stroke), 0.0, 1.0).astype(np.float32)

    def _inverse(self) -> NDArray[np.float64]:
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        turn = np.array([[cos, -sin], [sin, cos]])
        shape = np.array([[self.width, self.slant * self.height], [0.0, self.height]])
        return np.linalg.inv(turn @ shape)


def _warp(images_nhw: Floats, inverse: NDArray[np.float64]) -> Floats:
    """Bilinear: each pixel takes what lies where `inverse` maps it, about the centre."""
    height, width = images_nhw.shape[1:]
    y_hw, x_hw = np.mgrid[:height, :width].astype(np.float64)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    from_x, from_y = np.tensordot(inverse, np.stack([x_hw - centre[0], y_hw - centre[1]]), 1) + centre[:, None, None]
    padded_nhw = np.pad(images_nhw, ((0, 0), (1, 1), (1, 1)))
    x_hw = np.clip(from_x + 1.0, 0.0, width + 0.999)
    y_hw = np.clip(from_y + 1.0, 0.0, height + 0.999)
    left, top = x_hw.astype(int), y_hw.astype(int)
    right_hw, down_hw = (x_hw - left).astype(np.float32), (y_hw - top).astype(np.float32)
    upper = padded_nhw[:, top, left] * (1 - right_hw) + padded_nhw[:, top, left + 1] * right_hw
    lower = padded_nhw[:, top + 1, left] * (1 - right_hw) + padded_nhw[:, top + 1, left + 1] * right_hw
    warped_nhw: Floats = upper * (1 - down_hw) + lower * down_hw
    return warped_nhw


def _stroke(images_nhw: Floats, strength: float) -> Floats:
    pick = np.maximum if strength > 0 else np.minimum
    changed_nhw = images_nhw
    for axis in (1, 2):
        for step in (-1, 1):
            changed_nhw = pick(changed_nhw, np.roll(images_nhw, step, axis))
    blend = abs(strength)
    return (1 - blend) * images_nhw + blend * changed_nhw


def _bar(images_nhw: Floats) -> Floats:
    barred_nhw = images_nhw.copy()
    side = images_nhw.shape[1]
    middle, thick = side // 2, max(1, side // 14)
    barred_nhw[:, middle : middle + thick, side // 4 : -(side // 4)] = 1.0
    return barred_nhw


def _underline(images_nhw: Floats) -> Floats:
    lined_nhw = images_nhw.copy()
    side = images_nhw.shape[1]
    at, thick = side - max(1, side // 6), max(1, side // 14)
    lined_nhw[:, at : at + thick, side // 5 : -(side // 5)] = 1.0
    return lined_nhw


_DRAW: Mapping[str, Callable[[Floats], Floats]] = {
    "bar": _bar,
    "mirror": lambda images_nhw: images_nhw[:, :, ::-1],
    "flip": lambda images_nhw: images_nhw[:, ::-1, :],
    "underline": _underline,
}
