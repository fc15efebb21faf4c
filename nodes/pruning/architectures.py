"""The networks as plain torch modules. Every one maps images (b, channels, h, w) to logits (b, classes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional

from nodes.pruning.gates import GatedConv
from nodes.pruning.mass import GROUP

# Channels out of each convolution at full width; M halves the image.
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
MOBILE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class Chain(nn.Module):
    """Gated convolutions one after the other, some halving the image, then a linear map of the pooled rest.

    Args:
        plan: Channels of each convolution, or "M" for a 2x2 maximum.
        inputs: Channels of the image.
        classes: Logits.
        rank: Of the predictors.
        group: Filters that one decision stands for; only 16 can be served.
    """

    def __init__(
        self,
        plan: tuple[int | str, ...],
        *,
        inputs: int,
        classes: int,
        rank: int | None = None,
        group: int = GROUP,
    ) -> None:
        super().__init__()
        self.rank, self.group = rank, group
        self.halves: list[bool] = []
        convs: list[GatedConv] = []
        for entry in plan:
            if isinstance(entry, str):
                self.halves[-1] = True
                continue
            # Three colours say nothing about which filters fire; and the first layer is cheap.
            convs.append(GatedConv(inputs, entry, gate=group if convs else False, rank=rank))
            self.halves.append(False)
            inputs = entry
        self.convs = nn.ModuleList(convs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        for conv, halve in zip(self.convs, self.halves, strict=True):
            image_bchw = conv(image_bchw)
            if halve:
                image_bchw = functional.max_pool2d(image_bchw, 2)
        return self.head(image_bchw.mean(dim=(2, 3)))

    def sources(self) -> dict[str, str | None]:
        """Which gated convolution each layer reads from."""
        names = [f"convs.{i}" for i in range(len(self.convs))]
        gated = [name if conv.gate is not None else None for name, conv in zip(names, self.convs, strict=True)]
        return {**dict(zip(names[1:], gated, strict=False)), "head": gated[-1]}


class Residual(nn.Module):
    """Two gated convolutions beside a shortcut, which is never pruned: its readers are charged for all of it.

    Args:
        inner: Channels between the two, which nobody else reads.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, rank: int | None, group: int, inner: int) -> None:
        super().__init__()
        self.first = GatedConv(inputs, inner, stride=stride, gate=group, rank=rank)
        self.second = GatedConv(inner, outputs, gate=group, rank=rank)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        shortcut = image_bchw[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return self.second(self.first(image_bchw)) + shortcut


class ResNet(nn.Module):
    """ResNet for 32x32 images: 6n+2 layers in three stages of 16, 32 and 64 channels, times the width.

    Batch normalisation and ReLU come before the sum, so that the score of a filter is what the sum receives.

    Args:
        inner: Channels between the two convolutions of each block, where some were left out for good.

    Source: He et al., arXiv 1512.03385, section 4.2, with parameter-free shortcuts.
    """

    def __init__(
        self,
        blocks: int,
        *,
        width: float = 1.0,
        classes: int = 10,
        rank: int | None = None,
        group: int = GROUP,
        inner: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.depth, self.width, self.rank, self.group = blocks, width, rank, group
        inputs = scaled(16, width)
        self.stem = GatedConv(3, inputs, gate=False)
        stages: list[Residual] = []
        for stage, outputs in enumerate(scaled(channels, width) for channels in (16, 32, 64)):
            for block in range(blocks):
                stride = 2 if block == 0 and stage else 1
                between = inner[len(stages)] if inner else outputs
                stages.append(Residual(inputs, outputs, stride=stride, rank=rank, group=group, inner=between))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(image_bchw)).mean(dim=(2, 3)))

    @property
    def inner(self) -> tuple[int, ...]:
        """Channels between the two convolutions of each block."""
        return tuple(block.first.conv.out_channels for block in self.blocks)

    def sources(self) -> dict[str, str | None]:
        """Only the second convolution of a block reads a pruned image; the sum is dense."""
        return {f"blocks.{i}.second": f"blocks.{i}.first" for i in range(len(self.blocks))}


class Separable(nn.Module):
    """A depthwise 3x3 convolution, which computes the channels that are left, then a gated 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rank: int | None, group: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.pointwise = GatedConv(inputs, outputs, kernel=1, gate=group, rank=rank)

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        # A channel that was pruned is zero here and must stay so: its offset would revive it.
        alive_bc11 = (image_bchw.amax(dim=(2, 3), keepdim=True) > 0).float()
        filtered = functional.relu(self.norm(self.depthwise(image_bchw))) * alive_bc11
        return self.pointwise(filtered)


class MobileNet(nn.Module):
    """MobileNetV1 for 32x32 images: the stem keeps the size.

    Args:
        channels: Out of each block, where some were left out for good.

    Source: Howard et al., arXiv 1704.04861.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        classes: int = 10,
        rank: int | None = None,
        group: int = GROUP,
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.width, self.rank, self.group = width, rank, group
        inputs = scaled(32, width)
        self.stem = GatedConv(3, inputs, gate=False)
        blocks: list[Separable] = []
        widths = channels or [scaled(outputs, width) for outputs, _ in MOBILE]
        for outputs, (_, stride) in zip(widths, MOBILE, strict=True):
            blocks.append(Separable(inputs, outputs, stride=stride, rank=rank, group=group))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(image_bchw)).mean(dim=(2, 3)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels out of each block."""
        return tuple(block.pointwise.conv.out_channels for block in self.blocks)

    def sources(self) -> dict[str, str | None]:
        """A block filters, and then mixes, what the block before it has left."""
        before: dict[str, str | None] = {}
        for i in range(1, len(self.blocks)):
            before |= dict.fromkeys((f"blocks.{i}.depthwise", f"blocks.{i}.pointwise"), f"blocks.{i - 1}.pointwise")
        return {**before, "head": f"blocks.{len(self.blocks) - 1}.pointwise"}


class LeNet(nn.Module):
    """LeNet-5 for 32x32 images of three colours, with ReLU and maxima; its 5x5 kernels can be studied, not served.

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section II-B.
    """

    def __init__(self, *, width: float = 1.0, classes: int = 10, rank: int | None = None, group: int = GROUP) -> None:
        super().__init__()
        first, second, third, fourth = (max(1, round(width * channels)) for channels in (6, 16, 120, 84))
        self.c1 = GatedConv(3, first, kernel=5, gate=False, padded=False)
        self.c3 = GatedConv(first, second, kernel=5, gate=group, rank=rank, padded=False)
        self.c5 = GatedConv(second, third, kernel=5, gate=group, rank=rank, padded=False)
        self.f6 = nn.Linear(third, fourth)
        self.head = nn.Linear(fourth, classes)

    def forward(self, image_bchw: torch.Tensor) -> torch.Tensor:
        for conv in (self.c1, self.c3):
            image_bchw = functional.max_pool2d(conv(image_bchw), 2)
        return self.head(functional.relu(self.f6(self.c5(image_bchw).flatten(1))))

    def sources(self) -> dict[str, str | None]:
        """C5 reads what C3 has left, and F6 what C5 has."""
        return {"c5": "c3", "f6": "c5"}


# What the kernels can run.
Served = Chain | ResNet | MobileNet


def scaled(channels: int, width: float) -> int:
    """Channels at this width, a whole number of groups of 16."""
    return max(16, round(channels * width / 16) * 16)


def vgg16(*, width: float = 1.0, classes: int = 10, rank: int | None = None, group: int = GROUP) -> Chain:
    """VGG16 with batch normalisation for 32x32 images."""
    plan = tuple(entry if isinstance(entry, str) else scaled(entry, width) for entry in VGG16)
    return Chain(plan, inputs=3, classes=classes, rank=rank, group=group)


def digits_net(*, width: float = 1.0, classes: int = 10, rank: int | None = None, group: int = GROUP) -> Chain:
    """Five convolutions for the 8x8 digits, wide enough that groups of 16 can be told apart."""
    plan = (32, scaled(64, width), "M", scaled(64, width), scaled(64, width), "M", scaled(64, width))
    return Chain(plan, inputs=1, classes=classes, rank=rank, group=group)


BUILDERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "digits": digits_net,
        "vgg16": vgg16,
        "resnet20": lambda **given: ResNet(3, **given),
        "resnet56": lambda **given: ResNet(9, **given),
        "mobilenet": MobileNet,
        "lenet5": LeNet,
    }
)
