"""Which lost arms are worth making again."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from nodes.arms import ArmSpec, CompiledTraits, Inventory
from nodes.compile.later import spoilt


def arm(folder: Path, *, compiled: bool = True) -> ArmSpec:
    (folder / "engines").mkdir(exist_ok=True)
    for name in ("model.onnx", "engines/a.engine"):
        (folder / name).write_bytes(name.encode())
    beside = (("engines/a.engine", sha256(b"engines/a.engine").hexdigest()),)
    traits = CompiledTraits("ort-tensorrt", (1, 16), beside) if compiled else None
    digest = sha256(b"model.onnx").hexdigest()
    return ArmSpec("x", "v", "t", "e", 1, 1, 0.5, 10, folder / "model.onnx", digest, compiled=traits)


@pytest.mark.parametrize("name", ["model.onnx", "engines/a.engine"])
def test_a_damaged_or_missing_file_is_and_a_whole_one_that_crashed_is_not(tmp_path: Path, name: str) -> None:
    inventory = Inventory((), (arm(tmp_path),), {})
    assert not spoilt(inventory, ["x:v"])
    (tmp_path / name).write_bytes(b"damaged")
    assert spoilt(inventory, ["x:v"])
    assert not spoilt(inventory, ["y:v"])
    (tmp_path / name).unlink()
    assert spoilt(inventory, ["x:v"])


def test_a_model_as_it_came_is_not_ours_to_make(tmp_path: Path) -> None:
    inventory = Inventory((), (arm(tmp_path, compiled=False),), {})
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    assert not spoilt(inventory, ["x:v"])
