"""Exact synthetic geometry on a grid: a slanted plane, and where its pixels land."""

from __future__ import annotations

import reference
import torch
from torch import Tensor

from slam.frame import Correspondence, InverseDepth
from slam.kernels import Intrinsics
from slam.lie import se3_exp
from slam.predictors import Grid

GRID = Grid(160, 120, 4)
CAMERA: Intrinsics = (150.0, 156.0, 79.0, 60.5)  # all different, so that a mix-up shows
NORMAL, DISTANCE = (0.3, -0.25, 1.0), 3.0  # the plane NORMAL . X = DISTANCE of the world


def pose(*twist: float) -> Tensor:
    """Pose [7] of a twist (translation, rotation)."""
    return se3_exp(torch.tensor(twist, dtype=torch.float64))


def plane_depth(T_WC: Tensor) -> Tensor:
    """Inverse depth [P] float32 of the plane at the grid pixels of a camera."""
    M, normal = reference.pose_matrix(T_WC), torch.tensor(NORMAL, dtype=torch.float64)
    rays = reference.rays(GRID.pixel.double(), CAMERA) @ M[:3, :3].T
    return (rays @ normal / (DISTANCE - normal @ M[:3, 3])).float()


def known(value: Tensor, sigma: float = 0.01) -> InverseDepth:
    """Depths known to a relative sigma."""
    return InverseDepth(value.clone(), (sigma * value) ** -2)


def landed(value: Tensor, T_ji: Tensor, camera: Intrinsics = CAMERA) -> Tensor:
    """Where grid pixels with these inverse depths land [P, 2] float32 px."""
    M = reference.pose_matrix(T_ji)
    Y = reference.moved(M, GRID.pixel.double(), value.double(), camera)
    return reference.project(Y, camera).float()


def seen(value: Tensor, T_ji: Tensor, weight: float = 25.0) -> Correspondence:
    """Exact measurements of all the grid pixels."""
    return Correspondence(landed(value, T_ji), torch.full((len(value),), weight))
