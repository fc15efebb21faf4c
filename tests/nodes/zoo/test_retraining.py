"""The committed recipe gives the committed experts. Needs torch; the cheapest expert stands for all."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner

from kernels.native.library import available
from nodes.zoo import __main__ as command
from nodes.zoo.arrays import read_arrays
from nodes.zoo.catalog import DEFAULT_FOLDER, Catalog, load_catalog

NAME = "digits-linear"


def test_without_torch_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import finds where it is not installed
    result = CliRunner().invoke(command.main, ["train"])
    assert result.exit_code == 1
    assert "torch" in result.output
    assert "edgewise[train" in result.output


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_verify_prints_every_expert() -> None:
    result = CliRunner().invoke(command.main, ["verify"])
    assert result.exit_code == 0, result.output
    assert result.output.count("as stated") == 9


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    pytest.importorskip("torch", reason="torch is not installed (pip install 'edgewise[train]')")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install 'edgewise[train]')")
    from nodes.zoo.digits.build import build

    folder = tmp_path_factory.mktemp("retrained")
    build(folder, [NAME], workers=1, report=lambda line: None)
    return load_catalog(folder)


def test_recipe_gives_the_committed_expert(retrained: Catalog) -> None:
    """Other processors may round differently; the same processor gives the same bits."""
    shipped = load_catalog()
    committed_nc, found_nc = (catalog.evidence(catalog.expert(NAME)) for catalog in (shipped, retrained))
    np.testing.assert_allclose(found_nc, committed_nc, atol=2e-3)
    assert (found_nc.argmax(1) == committed_nc.argmax(1)).mean() >= 0.998
    stated, found = (catalog.expert(NAME).quality.accuracy_fraction for catalog in (shipped, retrained))
    assert found == pytest.approx(stated, abs=1.5 / 360)


def test_reference_is_made_the_same(retrained: Catalog) -> None:
    for file in ("reference.npz", "held_out.npz"):
        again, committed = read_arrays(retrained.folder / file), read_arrays(DEFAULT_FOLDER / file)
        for name in ("inputs", "labels"):
            np.testing.assert_array_equal(again[name], committed[name])


def test_counter_agrees_with_hand_count_of_lenet() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edgewise[train]')")
    from nodes.zoo.digits.architectures import BUILDERS, Classifier
    from nodes.zoo.digits.cost import count_cost

    cost = count_cost(Classifier(BUILDERS["digits-lenet5"]()).eval(), torch.zeros(1, 8, 8))
    assert cost.macs == 416_520 + 4 * 32 * 32
    assert cost.parameters == 156 + 2_416 + 48_120 + 10_164 + 850
