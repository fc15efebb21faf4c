"""The decoder of all text experts, LLaMA's blocks written out: RMSNorm, rotary positions, grouped queries, SwiGLU.

Shapes: b rows, t new tokens, p past tokens, s = p + t, d width, h query heads, g key and value heads, k width of a
head, l layers, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of one network. `heads` is a multiple of `kv_heads`; a head is `width // heads` wide, an even number."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads


class RootMeanSquareNorm(nn.Module):
    """Scales each vector to root mean square one, times a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_btd: Tensor) -> Tensor:
        """Shapes: in and out (b, t, d)."""
        return x_btd * torch.rsqrt(x_btd.square().mean(-1, keepdim=True) + NORM_EPSILON) * self.weight


class Attention(nn.Module):
    """Grouped-query attention over the past and the new tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, kv_width, bias=False)
        self.value = nn.Linear(shape.width, kv_width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)

    def heads_of(self, x_btd: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (b, h, t, k), keys and values (b, g, t, k), queries and keys turned to their positions."""
        b, t, _ = x_btd.shape
        query, key, value = (
            linear(x_btd).view(b, t, -1, self.shape.head_width).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        return turn(query, angles), turn(key, angles), value

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Mix of values (b, t, d); `bias` (b, 1, t, s) is added to the scores, None means causal without a past."""
        groups = self.shape.heads // self.shape.kv_heads
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        if bias is None:
            mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        else:
            scores = query @ keys.transpose(-1, -2) / math.sqrt(self.shape.head_width) + bias
            mixed = torch.softmax(scores, dim=-1) @ values
        b, _, t, _ = mixed.shape
        return self.output(mixed.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    """SwiGLU: a gated layer in between."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x_btd: Tensor) -> Tensor:
        """Shapes: in and out (b, t, d)."""
        return self.down(functional.silu(self.gate(x_btd)) * self.up(x_btd))


class Block(nn.Module):
    """Attention, then feed-forward, each with a norm before and a sum after."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm, self.attention = RootMeanSquareNorm(shape.width), Attention(shape)
        self.feed_norm, self.feed = RootMeanSquareNorm(shape.width), FeedForward(shape)

    def forward(
        self, x_btd: Tensor, angles: tuple[Tensor, Tensor], past: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The block's output and its new keys and values (2, b, g, t, k); `past` is (2, b, g, p, k)."""
        query, key, value = self.attention.heads_of(self.attention_norm(x_btd), angles)
        keys = key if past is None else torch.cat([past[0], key], dim=2)
        values = value if past is None else torch.cat([past[1], value], dim=2)
        x_btd = x_btd + self.attention.attend(query, keys, values, bias)
        return x_btd + self.feed(self.feed_norm(x_btd)), torch.stack([key, value])


class Decoder(nn.Module):
    """The whole network; the embedding also reads the answer out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RootMeanSquareNorm(shape.width)
        frequency_k = ROTARY_BASE ** (-torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width)
        self.register_buffer("frequency_k", frequency_k, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and "embedding" not in name:
                # What is added to the residual stream starts smaller, the more layers add to it.
                closing = name.endswith(("output.weight", "down.weight"))
                std = weight.shape[1] ** -0.5 / (math.sqrt(2 * self.shape.layers) if closing else 1.0)
                nn.init.normal_(weight, std=std)

    def hidden(self, tokens_bt: Tensor) -> Tensor:
        """Last hidden states (b, t, d) of whole sequences, for training."""
        angles = self.angles(torch.arange(tokens_bt.shape[1]).unsqueeze(0))
        x_btd = self.embedding(tokens_bt)
        for block in self.blocks:
            x_btd, _ = block(x_btd, angles, None, None)
        return self.norm(x_btd)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., d) to (..., v)."""
        return functional.linear(hidden, self.embedding.weight)

    def forward(self, tokens_bt: Tensor, past_b: Tensor, past_lbgpk: Tensor) -> tuple[Tensor, Tensor]:
        """One step with a cache: rows may have pasts of different lengths, padded at the end.

        Args:
            tokens_bt: New tokens, int64; rows with fewer are padded at the end, their surplus outputs mean nothing.
            past_b: Tokens of each row that the cache holds, int64.
            past_lbgpk: Keys and values of the past, (l, 2, b, g, p, k).

        Returns:
            Logits (b, t, v), and keys and values of the new tokens (l, 2, b, g, t, k).
        """
        places_t = torch.arange(tokens_bt.shape[1])
        angles = self.angles(past_b.unsqueeze(1) + places_t.unsqueeze(0))
        bias = step_bias(past_b, past_lbgpk.shape[4], places_t)
        x_btd, added = self.embedding(tokens_bt), []
        for layer, block in enumerate(self.blocks):
            x_btd, new = block(x_btd, angles, past_lbgpk[layer], bias)
            added.append(new)
        return self.logits(self.norm(x_btd)), torch.stack(added)

    def angles(self, positions_bt: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (b, 1, t, k/2) of the rotation at each position."""
        angle = positions_bt.unsqueeze(1).unsqueeze(-1).float() * self.frequency_k
        return torch.cos(angle), torch.sin(angle)


def turn(x_bhtk: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (i, i + k/2) by its angle."""
    cosine, sine = angles
    first, second = x_bhtk.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def step_bias(past_b: Tensor, past_places: int, places_t: Tensor) -> Tensor:
    """0 where a new token may look, a large negative number where not: (b, 1, t, s)."""
    seen_past_bp = torch.arange(past_places).unsqueeze(0) < past_b.unsqueeze(1)
    seen_new_tt = places_t.unsqueeze(0) <= places_t.unsqueeze(1)
    past_btp = seen_past_bp.unsqueeze(1).expand(-1, places_t.shape[0], -1)
    new_btt = seen_new_tt.unsqueeze(0).expand(past_b.shape[0], -1, -1)
    seen = torch.cat([past_btp, new_btt], dim=-1)
    return torch.where(seen, 0.0, -1e9).unsqueeze(1)


def parameters(network: nn.Module) -> int:
    """How many numbers the network has learned."""
    return sum(weight.numel() for weight in network.parameters())
