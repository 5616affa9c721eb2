"""Transformer blocks with rotary positions on a grid: of the encoder, and of one decoder of two.

Parameters carry the names of the published checkpoints (DUSt3R, CVPR 2024; MASt3R, ECCV 2024).
Tokens are [B, S, width] float32, S patches of an image row by row. A linear layer works in the
type of its weights; what is added up stays float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROTARY_BASE = 100.0  # wavelengths grow from 2 pi patches by this factor
EPSILON = 1e-6  # of every layer norm


def rotary_table(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Cosines and sines of a grid of patches, for `rotate`: [2, height * width, channels] float32.

    The first half of the channels turns with a patch's row, the second with its column, each with
    channels / 4 frequencies, listed twice (RoFormer's rotary embedding on two axes).
    """
    powers = torch.arange(0, channels // 2, 2, device=device) / (channels // 2)
    row = torch.arange(height, device=device)[:, None] * ROTARY_BASE**-powers
    column = torch.arange(width, device=device)[:, None] * ROTARY_BASE**-powers
    rows = row[:, None].expand(-1, width, -1)
    columns = column[None].expand(height, -1, -1)
    angle = torch.cat([rows, rows, columns, columns], -1).flatten(0, 1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns the pairs of channels of queries or keys [B, heads, S, d] by their positions."""
    cosine, sine = table
    a, b, c, d = x.chunk(4, -1)
    return (x * cosine + torch.cat([-b, a, -d, c], -1) * sine).to(x.dtype)


class SelfAttention(nn.Module):
    """Each token looks at all tokens of its image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """[B, S, width] -> the same, in the type of the weights."""
        query, key, value = self.qkv(x.to(self.qkv.weight.dtype)).chunk(3, -1)
        return self.proj(_attend(query, key, value, self.heads, table))


class CrossAttention(nn.Module):
    """Each token looks at all tokens of the other image, of the same size."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, other: Tensor, table: Tensor) -> Tensor:
        """[B, S, width] and the other image's -> [B, S, width], in the type of the weights."""
        x, other = (tokens.to(self.proj.weight.dtype) for tokens in (x, other))
        query, key, value = self.projq(x), self.projk(other), self.projv(other)
        return self.proj(_attend(query, key, value, self.heads, table))


class Perceptron(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out], in the type of the weights."""
        return self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype))))


class EncoderBlock(nn.Module):
    """Attention within an image, then a perceptron on each token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Perceptron(width, 4 * width, width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """[B, S, width] -> the same."""
        x = x + self.attn(self.norm1(x), table)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Attention within an image, then to the other image, then a perceptron on each token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.norm_y = nn.LayerNorm(width, eps=EPSILON)
        self.cross_attn = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Perceptron(width, 4 * width, width)

    def forward(self, x: Tensor, other: Tensor, table: Tensor) -> Tensor:
        """[B, S, width] and the other image's tokens before this layer -> [B, S, width]."""
        x = x + self.attn(self.norm1(x), table)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), table)
        return x + self.mlp(self.norm3(x))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, table: Tensor) -> Tensor:
    """Softmax attention of [B, S, width], split into heads and rotated by position."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    seen = F.scaled_dot_product_attention(rotate(query, table), rotate(key, table), value)
    return seen.transpose(1, 2).flatten(2)
