"""Device profiles: the shipped constants follow from their sources; malformed files are refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nodes.energy.profile import PROFILES, ProfileError, load_profile, profile_names

RESNET50_MACS = 4_090_000_000
# Millijoules per ResNet-50 inference and watts times milliseconds that they must agree with.
PUBLISHED_MJ = {"jetson-agx-orin": 29.0576, "rtx-4090": 72.719, "laptop-cpu": 758.27}
POWER_TIMES_TIME_MJ = {
    "jetson-agx-orin": 40.3156 * 0.720752,
    "rtx-4090": 321.587 * 0.226126,
    "laptop-cpu": 28 * 27.0811,
}


def valid() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PROFILES / "jetson-agx-orin.json").read_text())
    return content


@pytest.mark.parametrize("name", PUBLISHED_MJ)
def test_constants_reproduce_the_published_row(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.simulated
    assert 1e3 * profile.energy_j(RESNET50_MACS) == pytest.approx(PUBLISHED_MJ[name], rel=1e-3)
    assert pytest.approx(POWER_TIMES_TIME_MJ[name], rel=1e-3) == PUBLISHED_MJ[name]
    assert profile.noise is None
    assert profile.idle_w is None


def test_all_shipped_profiles_are_tested() -> None:
    assert set(profile_names()) == set(PUBLISHED_MJ)


def test_file_with_noise_and_overhead(tmp_path: Path) -> None:
    noise = {"lognormal_sigma": 0.3, "outlier_fraction": 0.005, "outlier_factor": 3.0}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**valid(), "name": "mine", "overhead_j": 0.5, "noise": noise}))
    profile = load_profile(path)
    assert profile.noise is not None
    assert profile.noise.outlier_factor == 3.0
    assert math.isclose(profile.energy_j(10**12), 0.5 + 7.105)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"surprise": 1}, "surprise"),
        ({"j_per_mac": 0}, "j_per_mac"),
        ({"j_per_mac": "7e-12"}, "j_per_mac"),
        ({"overhead_j": -1}, "overhead_j"),
        ({"simulated": 1}, "simulated"),
        ({"name": "Jetson AGX"}, "name"),
        ({"derivation": ""}, "derivation"),
        ({"noise": {"lognormal_sigma": -0.1}}, r"noise\.lognormal_sigma"),
        ({"noise": {"sigma": 0.1}}, r"noise\.\w+"),
    ],
)
def test_malformed_profile_names_the_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**valid(), **changes}))
    with pytest.raises(ProfileError, match=rf"bad\.json: {field}: "):
        load_profile(path)


@pytest.mark.parametrize("missing", ["j_per_mac", "source", "simulated", "derivation"])
def test_missing_key_is_refused(tmp_path: Path, missing: str) -> None:
    content = valid()
    del content[missing]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ProfileError, match=missing):
        load_profile(tmp_path / "bad.json")


@pytest.mark.parametrize("text", ['{"j_per_mac": NaN}', "", "[]", '{"j_per_mac": 1e999}'])
def test_what_is_not_a_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ProfileError, match=r"bad\.json"):
        load_profile(tmp_path / "bad.json")


def test_infinite_constant_is_refused(tmp_path: Path) -> None:
    text = json.dumps(valid()).replace("7.105e-12", "1e999")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ProfileError, match="j_per_mac"):
        load_profile(tmp_path / "bad.json")


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"jetson-agx-orin, laptop-cpu, rtx-4090.*\.json"):
        load_profile("jetson-nano")
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "absent.json")
