"""One checked Python function for each native kernel; the same call on CPU and CUDA tensors.

Notation: pixel p = (u, v) of keyframe i, its viewing ray ((u - cx) / fx, (v - cy) / fy, 1), its
inverse depth rho; T_ji takes points of camera i to camera j. The moved point, scaled by rho, is
Y = R ray + rho t; it is usable where Y.z > 0.001. Residuals are measured minus predicted, twists
are (translation, rotation[, log scale]), and every step is T <- exp(H^-1 g) T.

Per-pixel work is float32; sums and poses are float64. On the CPU, results do not depend on
torch.get_num_threads(). Inputs must be finite where their weight is not 0. Nothing is recorded for
autograd. Every function raises ValueError for a wrong shape, type, device or layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import _slam_native as _native

from slam.kernels.checks import Intrinsics
from slam.kernels.dense import (
    DenseMotion,
    DenseProblem,
    DenseReduction,
    DenseStep,
    dense_ba_cost,
    dense_ba_depths,
    dense_ba_step,
)
from slam.kernels.flow import refine_flow
from slam.kernels.inverse_depth import (
    Grid,
    fuse_inverse_depth,
    triangulate_inverse_depth,
    warp_inverse_depth,
)
from slam.kernels.matching import RayMatches, RefinedMatches, match_rays, refine_matches
from slam.kernels.pose import (
    NormalEquations,
    PoseSolution,
    pixel_depth_normal_equations,
    pose_normal_equations,
    ray_normal_equations,
    solve_pose,
)
from slam.kernels.shutter import unroll_target

__all__ = [
    "DenseMotion",
    "DenseProblem",
    "DenseReduction",
    "DenseStep",
    "Grid",
    "Intrinsics",
    "NativeInfo",
    "NormalEquations",
    "PoseSolution",
    "RayMatches",
    "RefinedMatches",
    "dense_ba_cost",
    "dense_ba_depths",
    "dense_ba_step",
    "fuse_inverse_depth",
    "match_rays",
    "native_info",
    "pixel_depth_normal_equations",
    "pose_normal_equations",
    "ray_normal_equations",
    "refine_flow",
    "refine_matches",
    "solve_pose",
    "triangulate_inverse_depth",
    "unroll_target",
    "warp_inverse_depth",
]


@dataclass(frozen=True, slots=True)
class NativeInfo:
    """How the native module was built."""

    with_cuda: bool  # has CUDA kernels; using them still needs a GPU
    architectures: tuple[str, ...]  # CUDA architectures, as CMake names them


def native_info() -> NativeInfo:
    """How the native module was built."""
    return NativeInfo(_native.with_cuda, tuple(_native.architectures.split()))
