"""Small pointmap networks with random weights, for tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from slam.bench import network
from slam.networks.pointmap import PointmapNetwork
from slam.networks.pointmap_sizes import PointmapSizes, TransformerSizes

SIZES = PointmapSizes(16, TransformerSizes(32, 2, 2), TransformerSizes(24, 4, 3), "linear", 24)
DUST3R = replace(SIZES, descriptors=0)
CALL = (  # of the heads of attention, which leave no trace in the tensors
    "AsymmetricMASt3R(enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, "
    "dec_depth=4, dec_num_heads=3)"
)


def random_network(sizes: PointmapSizes = SIZES) -> PointmapNetwork:
    """Small, if not said otherwise."""
    return network.random_network(sizes)


def agreeing_network() -> PointmapNetwork:
    """Sees one surface in every image: what differs between pixels is learned by heart.

    Tokens do not reach the heads, whose biases hold a patch's points, so that both images of all
    pairs are the same.
    """
    made = random_network()
    cells = torch.arange(16) / 16
    v, u = torch.meshgrid(cells, cells, indexing="ij")
    points = torch.stack([u - 0.5, v - 0.5, torch.full_like(u, 1.0), torch.ones_like(u)])
    for head in (made.downstream_head1, made.downstream_head2):
        head.proj.weight.zero_()
        head.proj.bias.copy_(points.flatten())
        local = head.head_local_features.fc2
        local.weight.zero_()
        local.bias.copy_(_waves(u, v).flatten())
    return made


def _waves(u: Tensor, v: Tensor) -> Tensor:
    """Descriptors [25, 16, 16] that differ smoothly, and the log of their confidence."""
    phase = torch.arange(1, 13)[:, None, None]
    angle = 0.3 * (phase * u + (13 - phase) * v)
    return torch.cat([angle.cos(), angle.sin(), torch.full((1, 16, 16), 2.0)])


def random_images(count: int, height: int, width: int) -> Tensor:
    """[count, 3, height, width] in -1..1."""
    generator = torch.Generator().manual_seed(count + height)
    return 2 * torch.rand(count, 3, height, width, generator=generator) - 1
