"""The pointmap network as plain formulas in float64, step by step as published: a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slam.networks.pointmap_sizes import PointmapSizes


class Reference:
    """One image after the other, one head of attention after the other, nothing clever."""

    def __init__(self, tensors: Mapping[str, Tensor], sizes: PointmapSizes) -> None:
        self.tensors = {name: value.double() for name, value in tensors.items()}
        self.sizes = sizes

    def encode(self, image: Tensor) -> Tensor:
        """[3, H, W] -> [S, E]."""
        p = self.sizes.patch
        grid = (image.shape[1] // p, image.shape[2] // p)
        weight = self.tensors["patch_embed.proj.weight"].flatten(1)
        squares = [
            image[:, p * r : p * r + p, p * c : p * c + p].double().flatten()
            for r in range(grid[0])
            for c in range(grid[1])
        ]
        x = torch.stack(squares) @ weight.T + self.tensors["patch_embed.proj.bias"]
        for n in range(self.sizes.encoder.depth):
            x = x + self.self_attention(f"enc_blocks.{n}", x, grid, self.sizes.encoder.heads)
            x = x + self.perceptron(f"enc_blocks.{n}.mlp", self.norm(f"enc_blocks.{n}.norm2", x))
        return self.norm("enc_norm", x)

    def decode(self, one: Tensor, two: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """[S, E] twice -> X, confidence and what else there is, for both views."""
        grid = (size[0] // self.sizes.patch, size[1] // self.sizes.patch)
        layers = [
            [one, self.linear("decoder_embed", one)],
            [two, self.linear("decoder_embed", two)],
        ]
        for n in range(self.sizes.decoder.depth):
            before = [layers[0][-1], layers[1][-1]]
            for view, name in enumerate((f"dec_blocks.{n}", f"dec_blocks2.{n}")):
                layers[view].append(self.decoder_block(name, before[view], before[1 - view], grid))
        for view in layers:
            del view[1]  # before the first block
            view[-1] = self.norm("dec_norm", view[-1])
        return [self.head(f"downstream_head{n + 1}", layers[n], grid) for n in (0, 1)]

    def decoder_block(self, name: str, x: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        heads = self.sizes.decoder.heads
        x = x + self.self_attention(name, x, grid, heads)
        asking, asked = self.norm(f"{name}.norm2", x), self.norm(f"{name}.norm_y", y)
        query = self.linear(f"{name}.cross_attn.projq", asking)
        key, value = (self.linear(f"{name}.cross_attn.proj{k}", asked) for k in "kv")
        seen = attend(query, key, value, grid, heads)
        x = x + self.linear(f"{name}.cross_attn.proj", seen)
        return x + self.perceptron(f"{name}.mlp", self.norm(f"{name}.norm3", x))

    def self_attention(self, name: str, x: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
        rows = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x))
        width = x.shape[1]
        parts = (rows[:, n * width : (n + 1) * width] for n in range(3))
        return self.linear(f"{name}.attn.proj", attend(*parts, grid, heads))

    def head(self, name: str, layers: list[Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
        if self.sizes.head == "dpt":
            depth = self.sizes.decoder.depth
            hooks = (0, depth * 2 // 4, depth * 3 // 4, depth)
            maps = [layers[n].T.reshape(1, -1, *grid) for n in hooks]
            raw = self.dense(f"{name}.dpt", maps)[0].permute(1, 2, 0)
        else:
            raw = self.pixels(self.linear(f"{name}.proj", layers[-1]), grid)
        v = raw[..., :3]
        norm = (v * v).sum(-1, keepdim=True).sqrt()
        out = {"X": v / norm * (norm.exp() - 1), "confidence": 1 + raw[..., 3].exp()}
        if self.sizes.descriptors:
            both = torch.cat([layers[0], layers[-1]], 1)
            local = self.pixels(self.perceptron(f"{name}.head_local_features", both), grid)
            d = local[..., : self.sizes.descriptors]
            out["descriptor"] = d / (d * d).sum(-1, keepdim=True).sqrt()
            out["descriptor_confidence"] = local[..., -1].exp()
        return out

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """[S, C p p] -> [H, W, C]."""
        p = self.sizes.patch
        cells = tokens.reshape(*grid, -1, p, p)  # row, column, channel, row and column inside
        return cells.permute(0, 3, 1, 4, 2).reshape(grid[0] * p, grid[1] * p, -1)

    def dense(self, name: str, maps: list[Tensor]) -> Tensor:
        levels = [self.conv(f"{name}.act_postprocess.{n}.0", x) for n, x in enumerate(maps)]
        for n, stride in ((0, 4), (1, 2)):
            weight, bias = (
                self.tensors[f"{name}.act_postprocess.{n}.1.{k}"] for k in ("weight", "bias")
            )
            levels[n] = F.conv_transpose2d(levels[n], weight, bias, stride)
        levels[3] = self.conv(f"{name}.act_postprocess.3.1", levels[3], stride=2)
        levels = [self.conv(f"{name}.scratch.layer_rn.{n}", x) for n, x in enumerate(levels)]
        path = self.fuse(f"{name}.scratch.refinenet4", levels[3])
        path = path[:, :, : levels[2].shape[2], : levels[2].shape[3]]
        for n in (3, 2, 1):
            unit = f"{name}.scratch.refinenet{n}"
            path = self.fuse(unit, path + self.residual(f"{unit}.resConfUnit1", levels[n - 1]))
        x = upsample(self.conv(f"{name}.head.0", path))
        return self.conv(f"{name}.head.4", self.conv(f"{name}.head.2", x).clamp(min=0))

    def fuse(self, name: str, path: Tensor) -> Tensor:
        return self.conv(f"{name}.out_conv", upsample(self.residual(f"{name}.resConfUnit2", path)))

    def residual(self, name: str, x: Tensor) -> Tensor:
        inner = self.conv(f"{name}.conv1", x.clamp(min=0))
        return x + self.conv(f"{name}.conv2", inner.clamp(min=0))

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        bias = self.tensors.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def perceptron(self, name: str, x: Tensor) -> Tensor:
        inner = self.linear(f"{name}.fc1", x)
        return self.linear(f"{name}.fc2", inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred * centred).mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
    """Softmax attention of [S, width], head after head."""
    d = q.shape[1] // heads
    parts = []
    for n in range(heads):
        mine = slice(n * d, (n + 1) * d)
        scores = turn(q[:, mine], grid) @ turn(k[:, mine], grid).T / math.sqrt(d)
        parts.append(torch.softmax(scores, 1) @ v[:, mine])
    return torch.cat(parts, 1)


def turn(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rotary positions as complex numbers: rows turn the first half of d channels, columns the
    second; in each, channels k and k + d / 4 are a number that turns by place / 100^(4 k / d)."""
    token = torch.arange(grid[0] * grid[1])
    quarter = x.shape[1] // 4
    frequency = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    out = []
    for half, place in zip(x.chunk(2, 1), (token // grid[1], token % grid[1]), strict=True):
        number = torch.complex(half[:, :quarter], half[:, quarter:])
        turned = number * torch.exp(1j * place[:, None] * frequency)
        out += [turned.real, turned.imag]
    return torch.cat(out, 1)


def upsample(x: Tensor) -> Tensor:
    """Twice the size; the corners stay where they are and what is between is linear."""

    def matrix(n: int) -> Tensor:
        places = np.linspace(0, n - 1, 2 * n)
        columns = [np.interp(places, np.arange(n), row) for row in np.eye(n)]
        return torch.from_numpy(np.stack(columns, 1))

    return matrix(x.shape[2]) @ x @ matrix(x.shape[3]).T
