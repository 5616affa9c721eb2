"""Start-up from two views with exact correspondences: what must start, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slam.config import Config
from slam.frame import Correspondence, PairGuess, PairPrediction
from slam.initialization import TwoViewMap, candidate_maps, rotation_residual, two_view_map
from slam.lie import se3_exp, se3_inv
from slam.mapping import project_grid
from slam.predictors import Grid

GRID = Grid(320, 240, 4)
INTRINSICS = (260.0, 260.0, 159.5, 119.5)


def pair_of(depth_i: torch.Tensor, depth_j: torch.Tensor, T_ji: torch.Tensor) -> PairPrediction:
    """Exact flow both ways for the given inverse depths, with a tenth of a pixel of noise."""
    generator = torch.Generator().manual_seed(1)

    def measure(depth: torch.Tensor, T: torch.Tensor) -> Correspondence:
        from slam.frame import InverseDepth

        known = InverseDepth(depth, torch.ones_like(depth))
        target, seen = project_grid(GRID, known, T, INTRINSICS)
        noise = 0.1 * torch.randn(target.shape, generator=generator)
        return Correspondence(target + noise, torch.where(seen, 40.0, 0.0))

    ahead, behind = measure(depth_i, T_ji), measure(depth_j, se3_inv(T_ji))
    flow = torch.linalg.vector_norm(ahead.target - GRID.pixel, dim=-1)
    return PairPrediction(ahead, behind, PairGuess(), 1.0, float(flow.median()), 1.0)


def plane(T_ji: torch.Tensor, tilt: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse depths, seen from both views, of a wall 2 m ahead of view i."""
    from slam.lie import se3_matrix

    x = (GRID.pixel[:, 0] - INTRINSICS[2]) / INTRINSICS[0]
    y = (GRID.pixel[:, 1] - INTRINSICS[3]) / INTRINSICS[1]
    rays = torch.stack([x, y, torch.ones_like(x)], -1).double()
    normal = torch.tensor([np.sin(tilt), 0.0, np.cos(tilt)])
    T_ij = se3_matrix(se3_inv(T_ji))
    R, t = T_ij[:3, :3], T_ij[:3, 3]
    first = (rays @ normal) / 2.0
    second = ((rays @ R.T) @ normal) / (2.0 - float(normal @ t))
    return first.float(), second.float()


def start(pair: PairPrediction) -> TwoViewMap | None:
    maps, settings = candidate_maps(GRID, pair, [], [INTRINSICS], Config()), Config().start
    return two_view_map(GRID, pair, maps, settings, parallax=settings.parallax)


def rough_scene() -> torch.Tensor:
    rows = torch.arange(GRID.rows * GRID.columns) // GRID.columns
    return 0.3 + 0.4 * ((rows // 6) % 2).float() + 0.002 * rows.float()


@pytest.mark.parametrize("direction", [[1.0, 0, 0], [0.2, 1.0, 0], [0.7, 0, 0.7]])
def test_parallax_starts_a_map_with_the_right_direction(direction: list[float]) -> None:
    t = 0.25 * torch.tensor(direction, dtype=torch.float64)
    T_ji = se3_exp(torch.cat([t, torch.tensor([0.01, -0.02, 0.01], dtype=torch.float64)]))
    depth, other = plane(T_ji, 0.6)
    bumps = 1 + 0.3 * torch.sin(GRID.pixel[:, 0] / 9) * torch.sin(GRID.pixel[:, 1] / 7)
    found = start(pair_of(depth * bumps, other, T_ji))
    assert found is not None
    cosine = torch.nn.functional.cosine_similarity(found.T_ji[:3], T_ji[:3], dim=0)
    assert cosine > 0.99


def test_a_drive_starts_by_what_the_road_tells() -> None:
    """Straight ahead, with half of the view too far away to move."""
    ahead = torch.tensor([0, 0, -0.6, 0, 0, 0], dtype=torch.float64)
    y = (GRID.pixel[:, 1] - INTRINSICS[3]) / INTRINSICS[1]
    road, far = y / 1.65, 60.0
    depths = torch.maximum(road, torch.tensor(1 / far)), road.clamp(min=1 / (far - 0.6))
    pair = pair_of(*depths, se3_exp(ahead))
    assert pair.median_flow < Config().start.parallax * GRID.width / 2
    found = start(pair)
    assert found is not None
    assert torch.nn.functional.cosine_similarity(found.T_ji[:3], ahead[:3], dim=0) > 0.999


def test_rotation_alone_does_not_start() -> None:
    twist = torch.tensor([0, 0, 0, 0.02, 0.12, 0.03], dtype=torch.float64)
    T_ji = se3_exp(twist)
    depth = rough_scene()
    assert start(pair_of(depth, depth, T_ji)) is None


def test_a_plane_starts_and_is_a_plane() -> None:
    twist = torch.tensor([0.5, 0.1, 0.05, 0.01, -0.03, 0.02], dtype=torch.float64)
    T_ji = se3_exp(twist)
    found = start(pair_of(*plane(T_ji, 0.5), T_ji))
    assert found is not None
    true, _ = plane(T_ji, 0.5)
    known = found.depth.information > 0
    ratio = found.depth.value[known] / true[known]
    assert (ratio / ratio.median() - 1).abs().median() < 0.03


def test_a_still_camera_does_not_start() -> None:
    T_ji = se3_exp(torch.zeros(6, dtype=torch.float64))
    depth = rough_scene()
    assert start(pair_of(depth, depth, T_ji)) is None


def test_rotation_residual_is_zero_for_a_rotation() -> None:
    T_ji = se3_exp(torch.tensor([0, 0, 0, 0.05, -0.1, 0.2], dtype=torch.float64))
    pair = pair_of(rough_scene(), rough_scene(), T_ji)
    residual = rotation_residual(
        GRID.pixel.double().numpy(), pair.forward.target.double().numpy(), INTRINSICS
    )
    assert np.median(residual) < 0.25
