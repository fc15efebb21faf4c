"""Pictures and arrays become the same tensor, whichever way they were saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import EdgewiseError
from orchestrator.image import load_input, picture, shrink
from orchestrator.types import TensorSpec

SPEC = TensorSpec("image", np.dtype("float32"), (-1, 8, 8))


@pytest.fixture(scope="module")
def digits() -> NDArray[np.float64]:
    datasets = pytest.importorskip("sklearn.datasets")
    return np.asarray(datasets.load_digits().images[:10])


def save_png(path: Path, sample: NDArray[np.float64], *, dark_ink: bool, mode: str = "L") -> Path:
    image = pytest.importorskip("PIL.Image")
    pixels = np.kron(np.round(sample / 16 * 255), np.ones((8, 8))).astype(np.uint8)
    image.fromarray(255 - pixels if dark_ink else pixels).convert(mode).save(path)
    return path


def save_npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def refusal(path: Path, spec: TensorSpec = SPEC, index: int = 0) -> EdgewiseError:
    with pytest.raises(EdgewiseError) as caught:
        load_input(path, spec, index=index)
    assert len(str(caught.value)) < 200
    return caught.value


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_both_polarities_of_a_picture_give_the_digit(tmp_path: Path, digits: NDArray[np.float64], mode: str) -> None:
    for sample in digits:
        expected = (sample / 16)[None]
        for dark_ink in (False, True):
            tensor = load_input(save_png(tmp_path / "d.png", sample, dark_ink=dark_ink, mode=mode), SPEC)
            assert tensor.shape == (1, 8, 8)
            assert tensor.dtype == np.float32
            np.testing.assert_allclose(tensor, expected, atol=0.004)


def test_transparent_paper_is_white(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    drawn = image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawn.putpixel((3, 4), (0, 0, 0, 255))
    drawn.save(tmp_path / "t.png")
    tensor = load_input(tmp_path / "t.png", SPEC)
    assert tensor[0, 4, 3] == 1.0
    assert tensor.sum() == 1.0


@pytest.mark.parametrize("divisor", [1, 16])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
def test_arrays_are_scaled_by_the_stated_rule(
    tmp_path: Path, digits: NDArray[np.float64], divisor: int, shape: tuple[int, ...]
) -> None:
    path = save_npy(tmp_path / "d.npy", (digits[0] / divisor).reshape(shape))
    np.testing.assert_allclose(load_input(path, SPEC)[0], digits[0] / 16, atol=1e-6)


def test_bytes_are_divided_by_255(tmp_path: Path, digits: NDArray[np.float64]) -> None:
    path = save_npy(tmp_path / "d.npy", np.round(digits[0] / 16 * 255).astype(np.uint8))
    np.testing.assert_allclose(load_input(path, SPEC)[0], digits[0] / 16, atol=0.003)


def test_one_sample_of_several_and_a_channel_in_the_specification(tmp_path: Path, digits: NDArray[np.float64]) -> None:
    path = save_npy(tmp_path / "d.npy", digits.astype(np.uint8))
    with_channel = TensorSpec("image", np.dtype("float32"), (-1, 1, 8, 8))
    np.testing.assert_allclose(load_input(path, with_channel, index=7)[0, 0], digits[7] / 16, atol=1e-6)
    assert "no sample 10" in str(refusal(path, index=10))


def test_shrinking_averages_areas() -> None:
    values = np.arange(9.0).reshape(3, 3) / 8
    assert shrink(values, (1, 1))[0, 0] == pytest.approx(values.mean())
    # Two cells over three: the middle row counts half to each side.
    np.testing.assert_allclose(shrink(values, (2, 3))[0], (values[0] + values[1] / 2) / 1.5)
    np.testing.assert_allclose(shrink(values, (3, 3)), values)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((9, 8)), "SHAPE_MISMATCH"),
        (np.zeros((2, 3, 8, 8)), "SHAPE_MISMATCH"),
        (np.full((8, 8), -1.0), "INPUT_INVALID"),
        (np.full((8, 8), 256.0), "INPUT_INVALID"),
        (np.full((8, 8), np.nan), "INPUT_NOT_FINITE"),
        (np.zeros((8, 8), dtype=complex), "INPUT_INVALID"),
        (np.zeros((0, 8, 8)), "INPUT_INVALID"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, array: NDArray[Any], reason: str) -> None:
    assert refusal(save_npy(tmp_path / "d.npy", array)).reason == reason


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert refusal(path).reason == "INPUT_INVALID"


@pytest.mark.parametrize("name", ["d.png", "d.npy"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"garbage" * 9])
def test_garbage_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).reason == "INPUT_INVALID"


def test_other_files_and_other_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("4")
    assert ".npy" in str(refusal(tmp_path / "a.txt"))
    assert "cannot read" in str(refusal(tmp_path / "absent.npy")).lower()
    vector = TensorSpec("x", np.dtype("float32"), (-1, 3, 5, 5))
    assert "does not take pictures" in str(refusal(save_npy(tmp_path / "d.npy", np.zeros((5, 5))), vector))


def test_truncated_picture_is_refused(digits: NDArray[np.float64]) -> None:
    image = pytest.importorskip("PIL.Image")
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    image.fromarray(noise).save(whole, format="PNG")
    with pytest.raises(EdgewiseError):
        picture(whole.getvalue()[:-800], (8, 8))
