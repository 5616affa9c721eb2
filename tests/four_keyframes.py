"""Four keyframes before a rough wall, with their measurements: for bundle adjustment."""

from __future__ import annotations

import torch
from synthetic import CAMERA, GRID, landed, plane_depth, pose
from torch import Tensor

from slam.config import BundleAdjustmentSettings, MappingSettings
from slam.frame import Correspondence, InverseDepth
from slam.lie import se3_exp, se3_mul
from slam.mapping import relative
from slam.optimization import BundleAdjustment

SETTINGS, MAPPING = BundleAdjustmentSettings(), MappingSettings()
COUNT = len(GRID.pixel)
NOISE = 0.1  # px
WORLD = pose(2.0, -1.0, 3.0, 1.0, 2.0, -0.5)  # far from the identity: left is not right
LOCAL = torch.stack(
    [
        pose(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        pose(0.35, 0.05, 0.1, 0.02, 0.12, 0.0),
        pose(0.1, 0.3, -0.1, -0.15, 0.05, 0.03),
        pose(0.5, 0.35, 0.25, -0.12, 0.2, -0.04),
    ]
)
T_WC = se3_mul(WORLD[None], LOCAL)
EDGES = [(i, j) for i in range(4) for j in range(4) if i != j]
FIRST = [True, False, False, False]
NONE = [False] * 4

Edges = dict[tuple[int, int], Correspondence]


def depths() -> Tensor:
    """Inverse depths [4, P]: the plane's with relief, each keyframe its own pixels."""
    generator = torch.Generator().manual_seed(0)
    relief = 0.25 * torch.randn(4, COUNT, generator=generator).clamp(-2, 2)
    return torch.stack([plane_depth(T) for T in LOCAL]) * (1 + relief)


def measurements(noise: float = NOISE) -> Edges:
    """Where every keyframe's grid pixels land in every other."""
    generator, value = torch.Generator().manual_seed(1), depths()
    weight = torch.full((COUNT,), NOISE**-2)
    return {
        (i, j): Correspondence(
            landed(value[i], relative(T_WC[i], T_WC[j]))
            + noise * torch.randn(COUNT, 2, generator=generator),
            weight,
        )
        for i, j in EDGES
    }


def start(
    pose_error: float = 0.02, depth_error: float = 0.05, focal: float = 1.0
) -> BundleAdjustment:
    """The truth, disturbed; the first two keyframes' poses exact, so that scale is too.

    Not so far that many measurements are outliers, which are dropped beyond 5 px here.
    """
    generator = torch.Generator().manual_seed(2)
    xi = pose_error * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    xi[:2] = 0.0
    factor = 1 + depth_error * torch.randn(4, COUNT, generator=generator).clamp(-2, 2)
    value = depths() * factor
    fx, fy, cx, cy = CAMERA
    return BundleAdjustment(
        se3_mul(T_WC, se3_exp(xi)),
        tuple(InverseDepth(v.contiguous(), (0.3 * v) ** -2) for v in value),
        (focal * fx, focal * fy, cx, cy),
    )
