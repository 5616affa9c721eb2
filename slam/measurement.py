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
    places = torch.arange(grid.rows * grid.columns).reshape(grid.rows, grid.columns)
    return places[::2, ::2].reshape(-1)


def pack(grid: Grid, measured: Correspondence) -> Tensor:
    """[Q, 3] int16: flow (u, v) and weight of a quarter of the grid pixels."""
    keep = thinned(grid)
    flow = ((measured.target - grid.pixel)[keep] / FLOW_STEP).round()
    weight = (measured.weight[keep] / WEIGHT_STEP).round().clamp(max=32767)
    weight = torch.where(flow.abs().amax(-1) > 32767, 0.0, weight)
    return torch.cat([flow.clamp(-32767, 32767), weight[:, None]], -1).to(torch.int16)


def unpack(grid: Grid, packed: Tensor) -> tuple[Tensor, Correspondence]:
    """Grid places [Q] and their measurements."""
    keep = thinned(grid)
    values = packed.float()
    target = grid.pixel[keep] + values[:, :2] * FLOW_STEP
    return keep, Correspondence(target.contiguous(), (values[:, 2] * WEIGHT_STEP).contiguous())
