"""Small retrieval heads with random weights, for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def head_tensors(channels: int = 24, out: int = 24, last: int = 16) -> dict[str, Tensor]:
    """Under their published names."""
    made = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    return {
        "prewhiten.m": random(1, channels),
        "prewhiten.p": random(channels, channels),
        "projector.weight": random(out, channels).float(),
        "projector.bias": random(out).float(),
        "postwhiten.m": random(1, out),
        "postwhiten.p": random(out, last),
    }
