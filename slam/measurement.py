"""A frame's measurements in few bytes, so that every frame can be posed again at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from slam.frame import Correspondence
from slam.predictors.grid import Grid

FLOW_STEP = 1 / 128  # px: int16 then covers +-256 px
WEIGHT_STEP = 1 / 128  # 1/px^2: the weight is at most 1 / noise_floor^2


def thinned(grid: Grid) -> Tensor:
    """Places [Q] of every second grid column and row."""
    return grid.places(2)


def pack(grid: Grid, measured: Correspondence) -> Tensor:
    """[Q, 3] int16: flow (u, v) and weight of a quarter of the grid pixels."""
    flow = ((_thin(grid, measured.target) - _thin(grid, grid.pixel)) / FLOW_STEP).round()
    weight = (_thin(grid, measured.weight[:, None])[:, 0] / WEIGHT_STEP).round().clamp(max=32767)
    weight = torch.where(flow.abs().amax(-1) > 32767, 0.0, weight)
    return torch.cat([flow.clamp(-32767, 32767), weight[:, None]], -1).to(torch.int16)


def _thin(grid: Grid, values: Tensor) -> Tensor:
    """Values [Q, C] at the thinned places, of [P, C] at all."""
    channels = values.shape[-1]
    return values.reshape(grid.rows, grid.columns, channels)[::2, ::2].reshape(-1, channels)


def unpack(grid: Grid, packed: Tensor) -> tuple[Tensor, Correspondence]:
    """Grid places [Q] and their measurements."""
    keep = thinned(grid)
    values = packed.float()
    target = grid.pixel[keep] + values[:, :2] * FLOW_STEP
    return keep, Correspondence(target.contiguous(), (values[:, 2] * WEIGHT_STEP).contiguous())
