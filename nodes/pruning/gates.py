"""Convolutions that learn to say, before they run, which of their filters an input needs (torch, for training).

Shapes: b batch, c and i channels out and in, g groups, h and w pixels.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from nodes.pruning.mass import GROUP, group_scores, keep_by_mass


class Masking(Enum):
    """What a gate does to the output of its convolution."""

    OFF = "off"
    TARGET = "target"
    PREDICTED = "predicted"


class Predictor(nn.Module):
    """Global maximum of the input, softmax over channels, one linear map (or two through `rank`) to logits.

    Source: arXiv 2110.08232, section 3.3; the low rank is ours.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False) if rank else None
        self.up = nn.Linear(rank or inputs, outputs)

    def forward(self, image_bihw: torch.Tensor) -> torch.Tensor:
        # Times the channels: softmax alone leaves numbers around 1/i, which train very slowly.
        pooled_bi = image_bihw.amax(dim=(2, 3)).float()
        share_bi = torch.softmax(pooled_bi, dim=1) * pooled_bi.shape[1]
        return self.up(share_bi if self.down is None else self.down(share_bi))


class Gate(nn.Module):
    """Predicts the mask of one convolution's output, and learns it from what really fires.

    Attributes:
        mass: Target masks keep this share of the activations' total.
        masking: What happens to the output.
        joint: Let the loss of the mask reach the layers before; else they are left alone (decoupled).
        loss: Of the last forward pass, in training.
        logits_bg, target_bg, mask_bg: What was predicted, right, and used in the last forward pass.
        score_bc: Filter scores of the last forward pass; not taken in dense training, which has no use for them.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int | None = None, group: int = GROUP) -> None:
        super().__init__()
        self.group = group
        self.groups = -(-outputs // group)
        self.predictor = Predictor(inputs, self.groups, rank=rank)
        self.register_buffer("threshold_g", torch.zeros(self.groups))
        self.mass = 1.0
        self.masking = Masking.OFF
        self.joint = False
        self.loss: torch.Tensor | None = None
        self.mask_bg: torch.Tensor | None = None
        self.score_bc: torch.Tensor | None = None
        self.target_bg: torch.Tensor | None = None
        self.logits_bg: torch.Tensor | None = None

    def forward(self, before_bihw: torch.Tensor, after_bchw: torch.Tensor) -> torch.Tensor:
        """The output, never below zero, with its unwanted groups set to zero."""
        if self.masking is Masking.OFF and self.training:
            return after_bchw
        self.score_bc = after_bchw.detach().amax(dim=(2, 3)).float()
        if self.masking is Masking.OFF:
            return after_bchw
        seen = before_bihw if self.joint else before_bihw.detach()
        logits_bg = self.predictor(seen).float()
        target_bg = self.targets()
        self.target_bg, self.logits_bg = target_bg, logits_bg.detach()
        self.loss = functional.binary_cross_entropy_with_logits(logits_bg, target_bg)
        self.mask_bg = target_bg if self.masking is Masking.TARGET else self.decide(logits_bg.detach())
        return after_bchw * self._spread(self.mask_bg, after_bchw.shape[1])

    def targets(self) -> torch.Tensor:
        """Target masks (b, g) of the last scores."""
        assert self.score_bc is not None
        score_bg = group_scores(self.score_bc.cpu().numpy(), self.group)
        return torch.from_numpy(keep_by_mass(score_bg, self.mass)).float().to(self.score_bc.device)

    def decide(self, logits_bg: torch.Tensor) -> torch.Tensor:
        """Masks from logits; the group with the largest is always computed."""
        margin_bg = logits_bg - self.threshold_g
        mask_bg = margin_bg > 0
        mask_bg.scatter_(1, margin_bg.argmax(dim=1, keepdim=True), True)
        return mask_bg.float()

    def _spread(self, mask_bg: torch.Tensor, channels: int) -> torch.Tensor:
        return mask_bg.repeat_interleave(self.group, dim=1)[:, :channels, None, None]


class GatedConv(nn.Module):
    """Convolution, batch normalisation and ReLU; with a gate unless told otherwise.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Odd; 1 or 3 can be served.
        stride: 1 or 2.
        padded: So that stride 1 keeps the size; else the image shrinks.
        gate: False for none, else channels that one decision of the gate stands for: 16 as the kernels skip them, or 1
            to see what single filters would save.
        rank: Of the predictor; None for a full map.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        gate: int | Literal[False] = GROUP,
        rank: int | None = None,
        padded: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.gate = Gate(inputs, outputs, rank=rank, group=gate) if gate else None

    def forward(self, image_bihw: torch.Tensor) -> torch.Tensor:
        fired_bchw = functional.relu(self.norm(self.conv(image_bihw)))
        return fired_bchw if self.gate is None else self.gate(image_bihw, fired_bchw)


def gates_of(network: nn.Module) -> dict[str, Gate]:
    """All gates by the name of their convolution, in order."""
    return {name.removesuffix(".gate"): part for name, part in network.named_modules() if isinstance(part, Gate)}


def set_masking(network: nn.Module, masking: Masking, *, mass: float | None = None, joint: bool | None = None) -> None:
    """Switch all gates."""
    for gate in gates_of(network).values():
        gate.masking = masking
        gate.mass = gate.mass if mass is None else mass
        gate.joint = gate.joint if joint is None else joint


def device_of(network: nn.Module) -> torch.device:
    """Where a network lies, and so where its images must."""
    return next(network.parameters()).device


def mask_loss(network: nn.Module) -> torch.Tensor:
    """Mean over gates of how far the predictors are from their targets, in the last forward pass."""
    losses = [gate.loss for gate in gates_of(network).values() if gate.loss is not None]
    return torch.stack(losses).mean()
