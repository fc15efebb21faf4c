"""The method itself, small. Needs torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="not run: torch is not installed (pip install 'edgewise[train]')")

from kernels.chain.cpu import Chain as Runner  # noqa: E402
from kernels.native.library import available  # noqa: E402

torch.set_num_threads(1)

from nodes.cli import main  # noqa: E402
from nodes.errors import ConfigError, ExitCode  # noqa: E402
from nodes.pruning.architectures import BUILDERS, Chain  # noqa: E402
from nodes.pruning.budget import Forecast, hold  # noqa: E402
from nodes.pruning.checkpoints import Checkpoint, Net, load, net_of_chain, regrouped, save  # noqa: E402
from nodes.pruning.cost import dense_macs, reduction  # noqa: E402
from nodes.pruning.export import plan_of, write_chain  # noqa: E402
from nodes.pruning.gates import Masking, gates_of, mask_loss, set_masking  # noqa: E402
from nodes.pruning.images import Images  # noqa: E402
from nodes.pruning.rewiring import drop_silent, gather_firing, take_filters  # noqa: E402
from nodes.pruning.rows import Data, prune  # noqa: E402
from nodes.pruning.state import put_weights, weights_of  # noqa: E402
from nodes.pruning.tracing import firing, layers_of, predicted_masks  # noqa: E402
from nodes.pruning.training import Course, Schedule, train  # noqa: E402
from nodes.worker.chains import ChainModel, chain_arrays, parse_chain  # noqa: E402

PLAN: tuple[int | str, ...] = (16, "M", 64, 48)
BRIEF = Schedule(epochs=2, rate=0.02, batch=32, margin=1, flip=False)


@pytest.fixture(scope="module")
def images() -> Images:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 4, 192)
    pictures = 0.3 * chance.standard_normal((192, 1, 8, 8)).astype(np.float32)
    for n, label in enumerate(labels):
        pictures[n, 0, 2 * label : 2 * label + 2] += 1.0
    return Images(pictures, labels.astype(np.int64))


@pytest.fixture(scope="module")
def weights(images: Images) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    made = Chain(PLAN, inputs=1, classes=4)
    train(made, images, Course(BRIEF), report=lambda _: None)
    return {name: value.copy() for name, value in weights_of(made).items()}


@pytest.fixture
def network(weights: dict[str, np.ndarray]) -> Chain:
    made = Chain(PLAN, inputs=1, classes=4)
    put_weights(made, weights)
    return made


def logits(network: Chain, images: Images) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = network.eval()(torch.from_numpy(images.images_nchw)).numpy()
    return found


def test_gathering_and_dropping_silent_filters_change_no_answer(network: Chain, images: Images) -> None:
    with torch.no_grad():  # Twenty filters of the second layer fall silent.
        network.convs[1].norm.weight[:20] = 0
        network.convs[1].norm.bias[:20] = -1
    expected = logits(network, images)
    slim = drop_silent(network, firing(network, images.images_nchw))
    assert slim.convs[1].conv.out_channels == 48
    np.testing.assert_allclose(logits(slim, images), expected, atol=1e-4)
    gathered = gather_firing(slim, firing(slim, images.images_nchw))
    np.testing.assert_allclose(logits(gathered, images), expected, atol=1e-4)
    assert not np.array_equal(gathered.convs[1].conv.weight.detach(), slim.convs[1].conv.weight.detach())


def test_the_forecast_is_the_targets_saving_and_is_held_after_training(network: Chain, images: Images) -> None:
    layers = layers_of(network, torch.zeros(1, 1, 8, 8))
    forecast = Forecast(network, layers, images.images_nchw)
    mass = forecast.mass_for(0.4)
    assert forecast.reduction(mass) >= 0.4
    train(network, images, Course(BRIEF, mass=mass), report=lambda _: None)
    hold(network, forecast.keep(mass), images.images_nchw)
    held = reduction(layers, predicted_masks(network, images.images_nchw))
    assert held == pytest.approx(forecast.reduction(mass), abs=0.05)


def test_decoupled_predictors_leave_the_layers_before_alone(network: Chain, images: Images) -> None:
    def gradient(*, joint: bool) -> bool:
        set_masking(network, Masking.TARGET, mass=0.6, joint=joint)
        network.train()
        network.zero_grad()
        network(torch.from_numpy(images.images_nchw[:8]))
        mask_loss(network).backward()
        found = network.convs[0].conv.weight.grad
        return found is not None and bool(found.abs().sum() > 0)

    assert not gradient(joint=False)
    assert gradient(joint=True)


def test_a_stopped_training_goes_on_where_it_was(images: Images, tmp_path: Path) -> None:
    def trained(state: Path | None, stop_after: int | None) -> dict[str, np.ndarray]:
        torch.manual_seed(3)
        made = Chain(PLAN, inputs=1, classes=4)
        lines: list[str] = []

        def report(line: str) -> None:
            lines.append(line)
            if len(lines) == stop_after:
                raise KeyboardInterrupt

        try:
            train(made, images, Course(BRIEF, state=state), report=report)
        except KeyboardInterrupt:
            return trained(state, None)
        return weights_of(made)

    whole, resumed = trained(None, None), trained(tmp_path / "state.npz", 1)
    for name, value in whole.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-6, err_msg=name)


def test_checkpoints_come_back_as_they_were(network: Chain, images: Images, tmp_path: Path) -> None:
    small = take_filters(network, {1: np.arange(0, 64, 2), 2: np.arange(24)})
    saved = Checkpoint(net_of_chain(small, side=8), small, {"accuracy": 0.5})
    save(tmp_path / "one.npz", saved)
    again = load(tmp_path / "one.npz")
    assert (again.net, again.facts) == (saved.net, saved.facts)
    np.testing.assert_array_equal(logits(again.network, images), logits(small, images))


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_the_kernels_serve_what_was_trained(network: Chain, images: Images, tmp_path: Path) -> None:
    train(network, images, Course(BRIEF, mass=0.6), report=lambda _: None)
    hold(network, dict.fromkeys(gates_of(network), 0.6), images.images_nchw)
    expected = torch.softmax(torch.from_numpy(logits(network, images)), dim=1).numpy()
    plan = plan_of(network, side=8)
    found, masks = Runner(plan)(images.images_nchw)
    torch_masks = np.concatenate(list(predicted_masks(network, images.images_nchw).values()), axis=1)
    agree = (masks[:, 1:] > 0) == torch_masks
    assert agree.mean() > 0.999
    same = agree.all(axis=1)
    np.testing.assert_allclose(found[same], expected[same], atol=1e-4)
    write_chain(tmp_path / "chain.npz", plan, input_name="image", output_name="probabilities")
    model = ChainModel((tmp_path / "chain.npz").read_bytes())
    np.testing.assert_array_equal(model.run({"image": images.images_nchw[:, 0]})["probabilities"], found)


def test_single_filters_can_be_studied_and_not_served(images: Images) -> None:
    torch.manual_seed(0)
    coarse = Chain(PLAN, inputs=1, classes=4)
    fine = Chain(PLAN, inputs=1, classes=4, group=1)
    for old, new in zip(coarse.convs, fine.convs, strict=True):
        new.conv.load_state_dict(old.conv.state_dict())
    saved = [
        Forecast(one, layers_of(one, torch.zeros(1, 1, 8, 8)), images.images_nchw).reduction(0.8)
        for one in (coarse, fine)
    ]
    # Filters are dropped one by one; but a logit for each costs more than one for sixteen.
    assert layers_of(fine, torch.zeros(1, 1, 8, 8))[1].predictor_macs == 16 * 64
    assert saved[0] != saved[1]
    set_masking(fine, Masking.PREDICTED)
    with pytest.raises(ConfigError, match="groups of 16"):
        plan_of(fine, side=8)


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
@pytest.mark.parametrize(("name", "width"), [("resnet20", 2.0), ("mobilenet", 0.5)])
@pytest.mark.parametrize("masking", [Masking.OFF, Masking.PREDICTED])
def test_the_kernels_serve_other_architectures(name: str, width: float, masking: Masking) -> None:
    torch.manual_seed(0)
    network = BUILDERS[name](width=width, classes=4)
    images = np.random.default_rng(0).standard_normal((6, 3, 16, 16)).astype(np.float32)
    network.train()(torch.from_numpy(images))  # So that the normalisation has seen something.
    network.eval()
    for gate in gates_of(network).values():
        torch.nn.init.normal_(gate.predictor.up.bias, std=1.0)
    masks = predicted_masks(network, images)
    set_masking(network, masking)
    with torch.no_grad():
        expected = torch.softmax(network(torch.from_numpy(images)), dim=1).numpy()
    plan = plan_of(network, side=16)
    found, used = Runner(plan)(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if masking is Masking.PREDICTED:
        np.testing.assert_array_equal(used[:, plan.groups[0] :] > 0, np.concatenate(list(masks.values()), axis=1))
        assert not used.all()
    again = parse_chain(chain_arrays(plan, input_name="x", output_name="y"))
    np.testing.assert_array_equal(Runner(again)(images)[0], found)
    assert sum(step.add > 0 for step in again.steps) == (9 if name == "resnet20" else 0)
    assert sum(step.depthwise is not None for step in again.steps) == (13 if name == "mobilenet" else 0)


@pytest.mark.parametrize(("name", "width"), [("resnet20", 2.0), ("mobilenet", 0.5), ("lenet5", 1.0)])
def test_the_forecast_of_other_architectures_is_held(name: str, width: float) -> None:
    """Known before training to within five points, dense shortcuts, depthwise layers and predictors counted."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 4, 96)
    side = 32 if name == "lenet5" else 12
    pictures = 0.3 * chance.standard_normal((96, 3, side, side)).astype(np.float32)
    for n, label in enumerate(labels):
        pictures[n, :, 3 * label : 3 * label + 3] += 1.0
    images = Images(pictures, labels.astype(np.int64))
    torch.manual_seed(0)
    network = BUILDERS[name](width=width, classes=4)
    train(network, images, Course(replace(BRIEF, epochs=1)), report=lambda _: None)
    facts = prune(network, Data(images, images), Course(BRIEF, mass=0.6), report=lambda _: None)
    assert facts["reduction_forecast"] > 0.05
    assert facts["reduction"] == pytest.approx(facts["reduction_forecast"], abs=0.05)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "lenet5"])
@pytest.mark.parametrize("group", [1, 16])
def test_other_architectures_come_back_from_files(name: str, group: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(name, classes=4, group=group, width=0.5)
    network = net.build().eval()
    save(tmp_path / "one.npz", Checkpoint(net, network))
    again = load(tmp_path / "one.npz")
    assert again.net == net
    picture = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_array_equal(again.network(picture), network(picture))
        other = regrouped(again, 17 - group)
        np.testing.assert_array_equal(other.network(picture), network(picture))
    gates = gates_of(other.network).values()
    assert {gate.group for gate in gates} == {17 - group}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_architecture_is_counted_and_pruned(name: str) -> None:
    network = BUILDERS[name]()
    channels, side = (1, 8) if name == "digits" else (3, 32)
    image = torch.randn(2, channels, side, side)
    layers = layers_of(network, image[:1])
    gated = [layer for layer in layers if layer.gated]
    assert len(gated) == len(gates_of(network))
    masks = predicted_masks(network, image.numpy())
    assert set(masks) == {layer.name for layer in gated}
    assert reduction(layers, masks) < 1
    assert dense_macs(layers) > (6e5 if name == "lenet5" else 1e6)


def test_a_device_that_is_not_here_is_refused_and_images_follow_the_network(
    network: Chain, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on a GPU was not run; that every image is sent to where the network lies is seen on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["prune", "train", "--net", "digits", "--device", "cuda", "--to", "x.npz"]) == ExitCode.CONFIG
    assert "no GPU here" in capsys.readouterr().err
    sent: list[tuple[int, ...]] = []
    seen: list[tuple[int, ...]] = []
    original = torch.Tensor.to

    def note(tensor: Any, *where: object, **also: object) -> Any:
        sent.append(tuple(tensor.shape))
        return original(tensor, *where, **also)

    monkeypatch.setattr(torch.Tensor, "to", note)
    network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    prune(network, Data(images, images), Course(BRIEF, mass=0.8), report=lambda _: None)
    assert seen
    assert set(seen) <= set(sent), "some images reach the network without having been sent to its device"
