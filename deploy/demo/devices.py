"""The three devices of the demo: which experts each one has, and how far its joules stray from the prediction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kernels.native.library import available
from nodes.energy.profile import PROFILES

# Real joules differ from predicted ones; promises that hold only where predictions are exact would show here.
NOISE = {"lognormal_sigma": 0.3, "outlier_fraction": 0.005, "outlier_factor": 3.0}
# One network at two operating points of its dynamic pruning; they need the compiled kernels.
GATED = ("digits-gated-m60", "digits-gated-m80") if available() else ()


@dataclass(frozen=True)
class Device:
    """A node of the demo.

    Args:
        node: What the gateway calls it; says that the device is simulated, because arms carry the name everywhere.
        profile: Shipped device profile.
        experts: What it offers for digits.
        texts: What it offers for questions.
        noise_seed: Of the draws that make actual joules differ from predicted ones.
    """

    node: str
    profile: str
    experts: tuple[str, ...]
    texts: tuple[str, ...]
    noise_seed: int


DEVICES = (
    Device(
        "orin-sim",
        "jetson-agx-orin",
        ("digits-linear", "digits-mlp", "digits-tinyconv", "digits-conv8", *GATED, "digits-lenet5"),
        ("skills-arithmetic", "skills-dates"),
        noise_seed=1,
    ),
    Device(
        "rtx4090-sim",
        "rtx-4090",
        ("digits-conv8", "digits-lenet5", "digits-wide"),
        ("skills-general", "skills-mixture"),
        noise_seed=2,
    ),
    Device(
        "laptop-sim",
        "laptop-cpu",
        ("digits-linear", "digits-mlp", "digits-tinyconv"),
        ("skills-strings",),
        noise_seed=3,
    ),
)

OFFERED = frozenset(expert for device in DEVICES for expert in device.experts)


def write_profile(device: Device, folder: Path) -> Path:
    """Copy the device's shipped profile with noise into `folder`; returns the copy.

    The copy keeps the profile's name: with noise, the method of its joules reads ``profile:NAME+noise``.
    """
    document = json.loads((PROFILES / f"{device.profile}.json").read_text())
    path = folder / f"{device.profile}+noise.json"
    path.write_text(json.dumps({**document, "noise": NOISE}, indent=2) + "\n")
    return path
