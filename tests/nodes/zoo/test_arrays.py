"""Files of arrays: same bytes every time, nothing executed, half precision undone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays, restore_probabilities, write_arrays


def test_round_trip_and_same_bytes_in_any_order(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "b-1": np.arange(4, dtype=np.float16).reshape(2, 2),
        "a": np.array([3], dtype=np.uint8),
    }
    write_arrays(tmp_path / "one.npz", arrays)
    write_arrays(tmp_path / "two.npz", {name: arrays[name] for name in reversed(list(arrays))})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = read_arrays(tmp_path / "one.npz")
    assert sorted(found) == ["a", "b-1"]
    np.testing.assert_array_equal(found["b-1"], arrays["b-1"])
    assert found["b-1"].dtype == np.float16


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        read_arrays(tmp_path / "objects.npz")


def test_damage_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(ValueError, match=r"cut\.npz"):
        read_arrays(tmp_path / "cut.npz")


def test_confidence_comes_back_from_half_precision() -> None:
    exact = np.array([[0.99993, 4e-5, 3e-5], [0.2, 0.5, 0.3]])
    halves = exact.astype(np.float16)
    assert abs(float(halves[0, 0]) - exact[0, 0]) > 5e-5
    restored = restore_probabilities(halves)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored[0], exact[0], atol=1e-7)
    np.testing.assert_allclose(restored[1], exact[1], atol=3e-4)
    np.testing.assert_allclose(restored.sum(axis=-1), 1, atol=1e-6)


def test_rows_without_an_answer_stay_empty() -> None:
    assert not restore_probabilities(np.zeros((2, 4, 10), dtype=np.float16)).any()
