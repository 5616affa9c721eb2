"""From tokens to a value for every pixel: points with confidence, descriptors with confidence.

Parameters carry the names of the published checkpoints. Everything here is float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slam.frame import PointmapView
from slam.networks.pointmap_sizes import PointmapSizes
from slam.networks.transformer import Perceptron

LEVELS = (96, 192, 384, 768)  # channels of the maps at 1/4, 1/8, 1/16 and 1/32 of the image
FUSED = 256  # channels of all maps once they are fused
LAST = 128  # channels of the map at the image's size
SMALLEST = 1e-8  # norm of a point before its direction is taken


class Head(nn.Module):
    """All outputs for one image of a pair."""

    def __init__(self, sizes: PointmapSizes) -> None:
        super().__init__()
        self.sizes = sizes
        encoder, decoder = sizes.encoder.width, sizes.decoder.width
        cells = sizes.patch**2
        if sizes.head == "dpt":
            self.dpt = DensePredictionHead(encoder, decoder)
        else:
            self.proj = nn.Linear(decoder, 4 * cells)
        if sizes.descriptors:
            both = encoder + decoder
            out = (sizes.descriptors + 1) * cells
            self.head_local_features = Perceptron(both, 4 * both, out)

    def forward(self, layers: Sequence[Tensor], size: tuple[int, int]) -> PointmapView:
        """A batch of views, without descriptors from DUSt3R.

        Args:
            layers: [B, S, width] tokens of the encoder, then those of the decoder's layers that
                `sizes.hooks` names, of which the last is that of the decoder.
            size: H, W in px.
        """
        points = self._points(layers, size).permute(0, 2, 3, 1).contiguous()
        X, confidence = to_points(points[..., :3]), 1 + points[..., 3].exp()
        if not self.sizes.descriptors:
            return PointmapView(X, confidence)
        tokens = self.head_local_features(torch.cat([layers[0], layers[-1]], -1))
        local = self._to_pixels(tokens, size).permute(0, 2, 3, 1)
        descriptor = F.normalize(local[..., :-1].contiguous(), dim=-1)
        return PointmapView(X, confidence, descriptor, local[..., -1].exp().contiguous())

    def _points(self, layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[B, 4, H, W] before activation."""
        if self.sizes.head == "dpt":
            height = size[0] // self.sizes.patch
            return self.dpt([to_map(tokens, height) for tokens in layers])
        return self._to_pixels(self.proj(layers[-1]), size)

    def _to_pixels(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, S, C patch^2] -> [B, C, H, W]: each token holds the pixels of its patch."""
        grid = to_map(tokens, size[0] // self.sizes.patch)
        return F.pixel_shuffle(grid, self.sizes.patch)


class DensePredictionHead(nn.Module):
    """Four layers of tokens, fused from coarse to fine (Ranftl et al., ICCV 2021)."""

    def __init__(self, encoder: int, decoder: int) -> None:
        super().__init__()
        fine, half, same, coarse = LEVELS
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(encoder, fine, 1), nn.ConvTranspose2d(fine, fine, 4, 4)),
                nn.Sequential(nn.Conv2d(decoder, half, 1), nn.ConvTranspose2d(half, half, 2, 2)),
                nn.Sequential(nn.Conv2d(decoder, same, 1)),
                nn.Sequential(
                    nn.Conv2d(decoder, coarse, 1), nn.Conv2d(coarse, coarse, 3, 2, padding=1)
                ),
            ]
        )
        self.scratch = Pyramid()
        self.head = nn.ModuleDict(
            {
                "0": nn.Conv2d(FUSED, LAST, 3, padding=1),
                "2": nn.Conv2d(LAST, LAST, 3, padding=1),
                "4": nn.Conv2d(LAST, 4, 1),
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, encoder, h, w], then three of [B, decoder, h, w] -> [B, 4, H, W]."""
        levels = [step(x) for step, x in zip(self.act_postprocess, maps, strict=True)]
        x = double(self.head["0"](self.scratch(levels)))
        return self.head["4"](self.head["2"](x).relu_())


class Pyramid(nn.Module):
    """Maps of four sizes to one at half of the image's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_rn = nn.ModuleList(
            nn.Conv2d(channels, FUSED, 3, padding=1, bias=False) for channels in LEVELS
        )
        self.refinenet1 = Fusion(skips=True)
        self.refinenet2 = Fusion(skips=True)
        self.refinenet3 = Fusion(skips=True)
        self.refinenet4 = Fusion(skips=False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """From fine to coarse [B, LEVELS, h, w] -> [B, FUSED, H / 2, W / 2]."""
        one, two, three, four = (layer(x) for layer, x in zip(self.layer_rn, levels, strict=True))
        # The coarsest map of an odd grid is rounded up: twice its size is one too many.
        path = self.refinenet4(four, None)[..., : three.shape[-2], : three.shape[-1]]
        path = self.refinenet3(path, three)
        return self.refinenet1(self.refinenet2(path, two), one)


class Fusion(nn.Module):
    """Adds a finer map to a coarser one that reached its size, and doubles the size."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        if skips:
            self.resConfUnit1 = Residual()
        self.resConfUnit2 = Residual()
        self.out_conv = nn.Conv2d(FUSED, FUSED, 1)

    def forward(self, path: Tensor, skip: Tensor | None) -> Tensor:
        """[B, FUSED, h, w] twice -> [B, FUSED, 2 h, 2 w]."""
        if skip is not None:
            path = path + self.resConfUnit1(skip)
        # A 1 x 1 convolution and interpolation commute; in this order it costs a quarter.
        return double(self.out_conv(self.resConfUnit2(path)))


class Residual(nn.Module):
    """Two convolutions, each after a ReLU, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(FUSED, FUSED, 3, padding=1)
        self.conv2 = nn.Conv2d(FUSED, FUSED, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, FUSED, h, w] -> the same."""
        return self.conv2(self.conv1(x.relu()).relu_()) + x


def to_points(x: Tensor) -> Tensor:
    """[..., 3] of any length to points: the direction stays, the length n becomes exp(n) - 1."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST)
    return x / norm * norm.expm1()


def to_map(tokens: Tensor, height: int) -> Tensor:
    """[B, S, C] tokens row by row -> [B, C, height, S / height]."""
    return tokens.mT.unflatten(-1, (height, -1)).contiguous()


def double(x: Tensor) -> Tensor:
    """[..., h, w] -> [..., 2 h, 2 w], bilinear, corners on corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
