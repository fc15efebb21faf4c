"""The shipped experts are what their cards say; anything else is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.native.library import available
from nodes.zoo.catalog import DEFAULT_FOLDER, Catalog, CatalogError, load_catalog
from nodes.zoo.check import check_expert

EXPERTS = ["digits-linear", "digits-mlp", "digits-tinyconv", "digits-conv8", "digits-gated-m60", "digits-gated-m80"]
EXPERTS += ["digits-gated", "digits-lenet5", "digits-wide"]
SHIPPED_LIMIT_BYTES = 3_000_000


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    shutil.copytree(DEFAULT_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_family_is_complete_and_ordered_by_cost(catalog: Catalog) -> None:
    assert [card.name for card in catalog.experts] == EXPERTS
    macs = [card.macs for card in catalog.experts]
    assert macs == sorted(macs)
    assert macs[-1] > 1000 * macs[0]


def test_better_experts_cost_more(catalog: Catalog) -> None:
    accuracy = [np.mean(catalog.evidence(card).argmax(1) == catalog.reference.labels_n) for card in catalog.experts]
    assert accuracy[0] < accuracy[1] < accuracy[-1]
    assert accuracy[-1] - accuracy[0] > 0.02


@pytest.mark.parametrize("name", EXPERTS)
def test_runs_exactly_as_well_as_stated(catalog: Catalog, name: str) -> None:
    card = catalog.expert(name)
    if card.engine == "chain" and not available():
        pytest.skip("not run: no compiled library")
    found = check_expert(catalog, card)
    assert found.held_out_fraction == pytest.approx(card.quality.accuracy_fraction, abs=1e-12)
    assert card.quality.samples == len(catalog.held_out.labels_n) == 360
    assert found.as_stated
    # Sibling models on other digits: the two shares differ by chance, and 360 digits leave much to it.
    samples = np.array([card.quality.samples, len(catalog.reference.labels_n)])
    right = samples @ [found.held_out_fraction, found.evidence_fraction] / samples.sum()
    standard_error = np.sqrt(right * (1 - right) * (1 / samples).sum())
    assert abs(found.evidence_fraction - found.held_out_fraction) <= 3 * standard_error


def test_arrays_fit_the_task(catalog: Catalog) -> None:
    reference = catalog.reference
    assert reference.inputs.shape == (1437, 8, 8)
    assert reference.inputs.dtype == np.float32
    assert reference.labels_n.dtype == np.uint8
    np.testing.assert_array_equal(reference.inputs * 16, np.round(reference.inputs * 16))
    assert (reference.inputs.min(), reference.inputs.max()) == (0, 1)
    for card in catalog.experts:
        np.testing.assert_allclose(catalog.evidence(card).sum(axis=1), 1, atol=1e-5)


def test_held_out_and_reference_share_no_digit(catalog: Catalog) -> None:
    reference = {image.tobytes() for image in catalog.reference.inputs}
    assert not [image for image in catalog.held_out.inputs if image.tobytes() in reference]


def test_shipped_files_are_small() -> None:
    files = [path for path in DEFAULT_FOLDER.iterdir() if path.suffix in {".onnx", ".npz", ".json"}]
    assert sum(path.stat().st_size for path in files) < SHIPPED_LIMIT_BYTES


@pytest.mark.parametrize("file", ["digits-mlp.onnx", "reference.npz", "held_out.npz", "evidence.npz"])
def test_flipped_byte_is_refused(copy: Path, file: str) -> None:
    load_catalog(copy)
    flip_byte(copy / file)
    with pytest.raises(CatalogError, match=rf"{file}.*sha256 expected [0-9a-f]{{64}}, found [0-9a-f]{{64}}"):
        load_catalog(copy)


def test_missing_file_says_what_to_do(copy: Path) -> None:
    (copy / "digits-mlp.onnx").unlink()
    with pytest.raises(CatalogError, match=r"digits-mlp\.onnx is missing.*nodes\.zoo train"):
        load_catalog(copy)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"surprise": 1}, "surprise"),
        ({"macs": -1}, "macs"),
        ({"macs": "640"}, "macs"),
        ({"file": "../digits-mlp.onnx"}, "file"),
        ({"sha256": "00"}, "sha256"),
        ({"name": "Digits MLP"}, "name"),
        ({"quality": {"accuracy_fraction": 1.5, "samples": 1, "split": ""}}, r"quality\.accuracy_fraction"),
    ],
)
def test_malformed_card_names_the_field(copy: Path, changes: dict[str, Any], field: str) -> None:
    edit(copy / "digits-mlp.json", **changes)
    with pytest.raises(CatalogError, match=rf"digits-mlp\.json: {field}: "):
        load_catalog(copy)


def test_card_of_another_expert_or_task_is_refused(copy: Path) -> None:
    edit(copy / "digits-mlp.json", name="digits-other")
    with pytest.raises(CatalogError, match="Name the card after its expert"):
        load_catalog(copy)
    edit(copy / "digits-mlp.json", name="digits-mlp", task="letters")
    with pytest.raises(CatalogError, match="'letters'"):
        load_catalog(copy)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"task\.json is missing"):
        load_catalog(tmp_path)


def test_evidence_must_exist(copy: Path) -> None:
    edit(copy / "digits-mlp.json", evidence_key="nobody")
    catalog = load_catalog(copy)
    with pytest.raises(CatalogError, match="'nobody'"):
        catalog.evidence(catalog.expert("digits-mlp"))


def test_unknown_expert_lists_the_known(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"digits-linear, digits-mlp.*digits-wide"):
        catalog.expert("digits-huge")
