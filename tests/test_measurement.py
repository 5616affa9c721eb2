"""Packed measurements: small, and close enough to what they stand for."""

from __future__ import annotations

import torch

from slam.frame import Correspondence
from slam.measurement import FLOW_STEP, WEIGHT_STEP, pack, unpack
from slam.predictors import Grid


def test_round_trip_is_within_half_a_step() -> None:
    grid = Grid(64, 48, 4)
    generator = torch.Generator().manual_seed(0)
    flow = 60 * torch.randn(len(grid.pixel), 2, generator=generator)
    weight = 44 * torch.rand(len(grid.pixel), generator=generator)
    keep, got = unpack(grid, pack(grid, Correspondence(grid.pixel + flow, weight)))
    assert (got.target - (grid.pixel + flow)[keep]).abs().max() <= FLOW_STEP / 2 + 1e-5
    assert (got.weight - weight[keep]).abs().max() <= WEIGHT_STEP / 2 + 1e-5


def test_a_quarter_of_the_grid_in_six_bytes_each() -> None:
    grid = Grid(320, 240, 4)
    packed = pack(grid, Correspondence(grid.pixel, torch.ones(len(grid.pixel))))
    assert packed.element_size() * packed.numel() == 6 * len(grid.pixel) // 4


def test_flow_beyond_the_range_gets_no_weight() -> None:
    grid = Grid(64, 48, 4)
    far = Correspondence(grid.pixel + 400.0, torch.ones(len(grid.pixel)))
    assert unpack(grid, pack(grid, far))[1].weight.max() == 0
