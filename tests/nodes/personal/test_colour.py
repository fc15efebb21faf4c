"""VGG and MobileNet classifiers of pictures in colour, through the same life of a correction."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nodes.agent import messages as m
from nodes.personal import graph, shared
from nodes.personal.delta import fold
from nodes.personal.network import macs, parameters
from nodes.personal.office import Office
from nodes.personal.onnx_file import NotPersonal, read_network
from tests.nodes.personal import colour
from tests.nodes.personal.host import ADA, ask, correct, open_office
from tests.nodes.personal.test_shared import deltas, opened, session

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: needs torch (extra personalize)")
EVE = m.Owner("tenant-a", "eve")
HELD = range(200, 270)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour.write_catalog(tmp_path_factory.mktemp("colour"))


async def right(office: Office, owner: m.Owner) -> float:
    images, labels_n = colour.own()
    answers = [await ask(office, images[n], f"h{n}", owner) for n in HELD]
    return float(np.mean([label == labels_n[n] for (label, _), n in zip(answers, HELD, strict=True)]))


async def teach(office: Office, rows: range) -> m.PersonalReport:
    images, labels_n = colour.own()
    report = m.PersonalReport(0)
    for row in rows:
        await ask(office, images[row], f"r{row}")
        report = await correct(office, f"r{row}", int(labels_n[row]))
        assert report.reason == ""
    return report


@pytest.mark.parametrize("name", colour.NETWORKS)
def test_the_chain_is_read_as_it_was_written(name: str) -> None:
    network, weights = colour.NETWORKS[name], colour.made(name)
    found, read = read_network(graph.plain(network, weights), colour.SIDE)
    assert found == network
    for key, value in weights.items():
        np.testing.assert_array_equal(read[key], value)


@pytest.mark.parametrize("name", colour.NETWORKS)
def test_a_row_does_to_depthwise_and_wide_layers_what_folding_does(name: str) -> None:
    network, weights = replace(colour.NETWORKS[name], shared=True), colour.made(name)
    images = colour.own()[0][:2]
    users = deltas(network, weights, 2)
    rows = [shared.row(network, weights, user, opened(network, weights)) for user in users]
    stacked = {key: np.concatenate([one[key] for one in rows]) for key in rows[0]}
    found = session(shared.graph(network, weights)).run(["probabilities"], {"image": images, **stacked})[0]
    for n, user in enumerate(users):
        own = session(graph.plain(network, fold(network, weights, user)))
        np.testing.assert_allclose(found[n : n + 1], own.run(None, {"image": images[n : n + 1]})[0], atol=1e-4)


@pytest.mark.parametrize("name", colour.NETWORKS)
async def test_the_instant_tier_learns_a_user_without_torch(name: str, models: Path, tmp_path: Path) -> None:
    office = await open_office(tmp_path, expert=name, models=models)
    before = await right(office, EVE)
    status = (await teach(office, range(40))).status
    assert status.tier == "instant"
    assert status.local_fraction > status.global_fraction
    assert status.generic_drop_fraction <= 0.001
    assert await right(office, ADA) > before + 0.02
    assert await right(office, EVE) == pytest.approx(before)
    assert (await office.follow(m.PersonalOrder(9, ADA, "colour-digits", "forget"))).status.state == "forgotten"
    assert await right(office, ADA) == pytest.approx(before)
    await office.close()


@NEEDS_TORCH
@pytest.mark.parametrize(("name", "corrections"), [("colour-vgg", 60), ("colour-mobilenet", 120)])
async def test_a_delta_is_trained_promoted_served_and_forgotten(name: str, corrections: int, tmp_path: Path) -> None:
    models, users = colour.write_catalog(tmp_path / "models", colour.trained), tmp_path / "users"
    office = await open_office(users, expert=name, models=models, shared=True)
    before = await right(office, EVE)
    await teach(office, range(corrections))
    await office.close()
    office = await open_office(users, expert=name, models=models, day_j=10_000.0, shared=True)
    await office.follow(m.PersonalOrder(0, ADA, "colour-digits", "train"))
    async with asyncio.timeout(300.0):
        await office.settled()
    status = (await office.follow(m.PersonalOrder(1, ADA, "colour-digits", "status"))).status
    assert status.tier == "delta"
    assert status.local_fraction > status.global_fraction
    assert status.generic_drop_fraction <= 0.001
    assert await right(office, ADA) > before + 0.03
    assert await right(office, EVE) == pytest.approx(before)
    assert (await office.follow(m.PersonalOrder(2, ADA, "colour-digits", "forget"))).status.state == "forgotten"
    assert await right(office, ADA) == pytest.approx(before)
    await office.close()


# ---- files that PyTorch exports


def _exported(module: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    example = torch.zeros(1, 3, 32, 32)
    names = {"input_names": ["image"], "output_names": ["probabilities"]}
    axes = {"image": {0: "b"}, "probabilities": {0: "b"}}
    torch.onnx.export(module.eval(), (example,), buffer, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    return buffer.getvalue()


def _published(kind: str) -> Any:
    """VGG16 of an eighth of the width and MobileNetV1 of a quarter, both with batch normalisation."""
    from torch import nn

    from nodes.pruning.architectures import MOBILE, VGG16

    layers: list[Any] = []
    if kind == "vgg16":
        inputs = 3
        for entry in VGG16:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inputs, entry // 8, 3, padding=1), nn.BatchNorm2d(entry // 8), nn.ReLU()]
            inputs = entry // 8
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(inputs, 10), nn.Softmax(1))
    inputs = 8
    layers += [nn.Conv2d(3, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()]
    for width, stride in MOBILE:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        layers += [depthwise, nn.BatchNorm2d(inputs), nn.ReLU()]
        layers += [nn.Conv2d(inputs, width // 4, 1, bias=False), nn.BatchNorm2d(width // 4), nn.ReLU()]
        inputs = width // 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10), nn.Softmax(1))


@NEEDS_TORCH
@pytest.mark.parametrize(("kind", "layers"), [("vgg16", 14), ("mobilenet", 28)])
def test_published_architectures_are_read_and_answer_the_same(kind: str, layers: int) -> None:
    import torch

    torch.manual_seed(0)
    module = _published(kind)
    with torch.no_grad():  # Batch statistics that are not 0 and 1, so that leaving them out would show.
        module.train()(torch.rand(16, 3, 32, 32))
    model = _exported(module)
    network, weights = read_network(model, 32)
    assert len(network.stages) == layers
    assert network.channels == 3
    images = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    found = session(graph.plain(network, weights)).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    delta = sum(shared.layout(network, weights).inputs.values())
    assert delta < 0.2 * parameters(network, weights)
    assert macs(network, weights) > 0


@NEEDS_TORCH
@pytest.mark.parametrize("odd", ["branch", "relu6", "no relu"])
def test_networks_that_are_no_chain_are_refused_with_a_reason(odd: str) -> None:
    from torch import nn

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Linear(4 * 32 * 32, 10)

        def forward(self, image: Any) -> Any:
            kept = self.first(image).relu()
            return self.last((self.second(kept).relu() + kept).flatten(1)).softmax(1)

    middle = {"relu6": nn.ReLU6(), "no relu": nn.Identity()}
    plain = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    tail = [nn.Flatten(), nn.Linear(4 * 32 * 32, 10), nn.Softmax(1)]
    module = Branch() if odd == "branch" else nn.Sequential(*plain, middle[odd], *tail)
    with pytest.raises(NotPersonal, match={"branch": "Add", "relu6": "Clip", "no relu": "ReLU"}[odd]):
        read_network(_exported(module), 32)
