"""Small pointmap networks with random weights, for tests."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from slam.networks.pointmap import PointmapNetwork
from slam.networks.pointmap_sizes import PointmapSizes, TransformerSizes

SIZES = PointmapSizes(16, TransformerSizes(32, 2, 2), TransformerSizes(24, 4, 3), "linear", 24)
DUST3R = replace(SIZES, descriptors=0)


def random_network(sizes: PointmapSizes = SIZES) -> PointmapNetwork:
    """With weights as before training, but norms and biases that do something."""
    generator = torch.Generator().manual_seed(7)
    shapes = {name: value.shape for name, value in PointmapNetwork(sizes).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else (3 / math.prod(shape[1:])) ** 0.5
        tensors[name] = scale * (2 * torch.rand(shape, generator=generator) - 1)
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    heads = (sizes.encoder.heads, sizes.decoder.heads)
    return PointmapNetwork.from_state_dict(tensors, heads)


def random_images(count: int, height: int, width: int) -> Tensor:
    """[count, 3, height, width] in -1..1."""
    generator = torch.Generator().manual_seed(count + height)
    return 2 * torch.rand(count, 3, height, width, generator=generator) - 1
