"""Filters left out for good: what each method keeps, and that it costs what it says. Needs torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="not run: torch is not installed (pip install 'edgewise[train]')")
torch.set_num_threads(1)

from kernels.chain.cpu import Chain as Runner  # noqa: E402
from kernels.native.library import available  # noqa: E402
from nodes.pruning.architectures import BUILDERS, Chain, MobileNet, ResNet  # noqa: E402
from nodes.pruning.checkpoints import Checkpoint, Net, load, net_after, save  # noqa: E402
from nodes.pruning.export import plan_of  # noqa: E402
from nodes.pruning.images import Images  # noqa: E402
from nodes.pruning.rewiring import take_blocks, take_inner  # noqa: E402
from nodes.pruning.rows import Data, prepare  # noqa: E402
from nodes.pruning.static import LEAST, Cutter, Method, chosen_filters, filter_worth  # noqa: E402
from nodes.pruning.training import settle  # noqa: E402


@pytest.fixture
def network() -> Chain:
    torch.manual_seed(0)
    made = Chain((16, "M", 64, 48), inputs=1, classes=4)
    made.eval()
    with torch.no_grad():
        for conv in made.convs:
            conv.norm.bias.uniform_(-0.5, 0.5)
    return made


@pytest.fixture
def images() -> Images:
    chance = np.random.default_rng(0)
    return Images(chance.standard_normal((40, 1, 8, 8)).astype(np.float32), chance.integers(0, 4, 40))


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("wanted", [0.3, 0.7])
def test_what_is_left_saves_what_was_wanted(network: Chain, images: Images, method: Method, wanted: float) -> None:
    cutter = Cutter(network, method, images)
    saved = cutter.saved(cutter.at(cutter.share_saving(wanted)))
    assert wanted <= saved <= wanted + 0.05
    assert cutter.saved(cutter.at(1.0)) == 0.0


def test_uniform_takes_the_same_share_of_each_layer(network: Chain, images: Images) -> None:
    chosen = chosen_filters(filter_worth(network, Method.UNIFORM, images), Method.UNIFORM, 0.5)
    assert {i: len(rows) for i, rows in chosen.items()} == {1: 32, 2: 24}
    size_c = network.convs[1].conv.weight.detach().abs().sum(dim=(1, 2, 3)).numpy()
    assert size_c[chosen[1]].min() >= np.delete(size_c, chosen[1]).max()


@pytest.mark.parametrize("method", [Method.MAGNITUDE, Method.TAYLOR])
def test_ranking_over_all_layers_cuts_where_filters_matter_least(
    network: Chain, images: Images, method: Method
) -> None:
    with torch.no_grad():
        network.convs[2].norm.weight[LEAST:] = 1e-6
        network.convs[2].norm.bias[LEAST:] = 0
        network.convs[2].conv.weight[LEAST:] *= 1e-3
    chosen = chosen_filters(filter_worth(network, method, images), method, 0.5)
    assert len(chosen[2]) < len(chosen[1])
    assert len(chosen[2]) >= LEAST
    assert set(range(LEAST)) <= set(chosen[2].tolist())


def test_taylor_ranks_as_the_loss_itself_does(network: Chain, images: Images) -> None:
    """Against the change of the loss when a filter's scale and offset are shrunk a little, measured."""

    def loss() -> float:
        with torch.no_grad():
            logits = network(torch.from_numpy(images.images_nchw))
            return float(torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(images.labels_n)))

    worth_c = filter_worth(network, Method.TAYLOR, images)[2]
    norm, before, step = network.convs[2].norm, loss(), 1e-2
    measured = []
    for c in range(48):
        with torch.no_grad():
            norm.weight[c] *= 1 - step
            norm.bias[c] *= 1 - step
            measured.append(((loss() - before) / step) ** 2)
            norm.weight[c] /= 1 - step
            norm.bias[c] /= 1 - step
    assert np.corrcoef(np.sqrt(measured), np.sqrt(worth_c))[0, 1] > 0.99


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
@pytest.mark.parametrize("method", Method)
def test_the_kernels_serve_widths_that_are_no_multiple_of_16(network: Chain, images: Images, method: Method) -> None:
    cutter = Cutter(network, method, images)
    small = cutter.at(0.37).eval()
    assert any(conv.conv.out_channels % 16 for conv in small.convs)
    with torch.no_grad():
        expected = torch.softmax(small(torch.from_numpy(images.images_nchw)), dim=1).numpy()
    np.testing.assert_allclose(Runner(plan_of(small, side=8))(images.images_nchw)[0], expected, atol=1e-4)


@pytest.fixture
def residual() -> ResNet:
    torch.manual_seed(0)
    made: ResNet = BUILDERS["resnet20"](width=2.0, classes=4)
    made.train()(torch.randn(8, 3, 16, 16))  # So that the normalisation has seen something.
    made.eval()
    return made


def assert_kept_and_served(checkpoint: Checkpoint, images_nchw: NDArray[np.float32], folder: Path) -> None:
    """The network answers as before when it is read again, and, where there are kernels, when it is served."""
    save(folder / "one.npz", checkpoint)
    picture = torch.from_numpy(images_nchw)
    with torch.no_grad():
        expected = torch.softmax(checkpoint.network(picture), dim=1).numpy()
        again = torch.softmax(load(folder / "one.npz").network(picture), dim=1).numpy()
    np.testing.assert_array_equal(again, expected)
    if available():
        np.testing.assert_allclose(Runner(plan_of(checkpoint.network, side=16))(images_nchw)[0], expected, atol=1e-4)


@pytest.mark.parametrize("method", Method)
def test_residual_networks_lose_channels_within_their_blocks(residual: ResNet, method: Method, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    images = Images(chance.standard_normal((40, 3, 16, 16)).astype(np.float32), chance.integers(0, 4, 40))
    cutter = Cutter(residual, method, images)
    small = cutter.at(cutter.share_saving(0.4))
    assert isinstance(small, ResNet)
    assert 0.4 <= cutter.saved(small) <= 0.45
    assert cutter.saved(cutter.at(1.0)) == 0.0
    outer = [block.second.conv.out_channels for block in small.blocks]
    assert outer == [block.second.conv.out_channels for block in residual.blocks], "what is added keeps its channels"
    small.eval()
    net = net_after(Net("resnet20", classes=4, side=16, width=2.0), small)
    assert_kept_and_served(Checkpoint(net, small), images.images_nchw[:5], tmp_path)


def test_filters_that_say_nothing_can_leave_a_block_unnoticed(residual: ResNet) -> None:
    """The control: one filter more, and the answers change."""
    with torch.no_grad():
        residual.blocks[4].first.norm.weight[20:] = 0
        residual.blocks[4].first.norm.bias[20:] = 0
        picture = torch.randn(3, 3, 16, 16)
        before = residual(picture)
        same = take_inner(residual, {4: np.arange(20)}).eval()(picture)
        other = take_inner(residual, {4: np.arange(19)}).eval()(picture)
    torch.testing.assert_close(same, before, atol=1e-5, rtol=1e-5)
    assert float((other - before).abs().max()) > 1e-4


def test_residual_networks_lose_silent_filters_before_they_are_pruned(residual: ResNet) -> None:
    """In whole groups of 16, and what is left is put in an order; the answers stay. The control: nothing is silent."""
    chance = np.random.default_rng(0)
    images = Images(chance.standard_normal((60, 3, 16, 16)).astype(np.float32), chance.integers(0, 4, 60))
    data = Data(images, images)
    prepared = prepare(residual, data)
    assert prepared.inner == residual.inner
    with torch.no_grad():
        residual.blocks[4].first.norm.weight[20:] = 0
        residual.blocks[4].first.norm.bias[20:] = -1
        prepared = prepare(residual, data)
        assert isinstance(prepared, ResNet)
        assert residual.inner[4] == 64
        assert prepared.inner == tuple(32 if i == 4 else width for i, width in enumerate(residual.inner))
        assert not torch.equal(prepared.blocks[0].first.conv.weight, residual.blocks[0].first.conv.weight)
        picture = torch.from_numpy(images.images_nchw[:5])
        torch.testing.assert_close(prepared(picture), residual(picture), atol=1e-4, rtol=1e-4)


@pytest.fixture
def separable() -> MobileNet:
    torch.manual_seed(0)
    made = MobileNet(width=0.5, classes=4)
    with torch.no_grad():
        for block in made.blocks:  # So that every filter says something.
            block.norm.bias.uniform_(0.1, 0.5)
            block.pointwise.norm.bias.uniform_(0.1, 0.5)
    settle(made, np.random.default_rng(1).standard_normal((64, 3, 16, 16)).astype(np.float32))
    return made


@pytest.mark.parametrize("method", Method)
def test_separable_networks_lose_channels_and_their_filters(
    separable: MobileNet, method: Method, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    images = Images(chance.standard_normal((40, 3, 16, 16)).astype(np.float32), chance.integers(0, 4, 40))
    cutter = Cutter(separable, method, images)
    small = cutter.at(cutter.share_saving(0.4))
    assert isinstance(small, MobileNet)
    small.eval()
    assert 0.4 <= cutter.saved(small) <= 0.45
    assert cutter.saved(cutter.at(1.0)) == 0.0
    assert any(width % 16 for width in small.channels)
    net = net_after(Net("mobilenet", classes=4, side=16, width=0.5), small)
    assert_kept_and_served(Checkpoint(net, small), images.images_nchw[:5], tmp_path)


def test_separable_networks_lose_silent_filters_before_they_are_pruned(separable: MobileNet) -> None:
    """The control: one filter that speaks, and the answers change without it."""
    chance = np.random.default_rng(0)
    images = Images(chance.standard_normal((60, 3, 16, 16)).astype(np.float32), chance.integers(0, 4, 60))
    with torch.no_grad():
        silent = separable.blocks[2].pointwise.norm
        silent.weight[20:] = 0
        silent.bias[20:] = -1
        prepared = prepare(separable, Data(images, images))
        assert isinstance(prepared, MobileNet)
        assert (separable.channels[2], prepared.channels[2]) == (64, 32)
        picture = torch.from_numpy(images.images_nchw[:5])
        before = separable(picture)
        torch.testing.assert_close(prepared(picture), before, atol=1e-4, rtol=1e-4)
        loud = int(separable.blocks[2].pointwise(torch.rand(1, 64, 8, 8)).amax(dim=(0, 2, 3)).argmax())
        other = take_blocks(separable, {2: np.delete(np.arange(64), loud)}).eval()(picture)
    assert float((other - before).abs().max()) > 1e-4
