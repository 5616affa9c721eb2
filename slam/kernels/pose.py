"""Normal equations of a pose from matched pixels or points, and the pose solver."""

from __future__ import annotations

from dataclasses import dataclass

import _slam_native as _native
import torch
from torch import Tensor

from slam.kernels.checks import (
    Intrinsics,
    check,
    check_positive,
    checked_camera,
    checked_pose,
    where,
)


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """A linearised least-squares problem: the step is solve(H, g), a left perturbation."""

    H: Tensor  # [N, N] float64, on the CPU
    g: Tensor  # [N] float64, on the CPU
    cost: float  # sum of Huber costs of whitened errors, comparable between poses
    inliers: int  # points with a whitened error below 3
    count: int  # points that carry a measurement


@dataclass(frozen=True, slots=True)
class PoseSolution:
    """The end of a pose solve."""

    T: Tensor  # [7] float64 SE(3) T_ji, on the CPU
    H: Tensor  # [6, 6] float64, information of the pose (left perturbation) at T
    cost: float  # sum of Huber costs at T
    inliers: int  # points with a whitened error below 3
    count: int  # points that carry a measurement
    iterations: int  # steps tried
    converged: bool  # the step or the change of the cost became negligible


def pose_normal_equations(
    pixel: Tensor,
    inverse_depth: Tensor,
    information: Tensor,
    target: Tensor,
    weight: Tensor,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    *,
    huber: float,
    outlier: float,
) -> NormalEquations:
    """Normal equations of T_ji from where a keyframe's pixels are measured in image j.

    A pixel's 2x2 covariance is I / weight plus its inverse depth's variance seen in the image.

    Args:
        pixel: [P, 2] float32, px.
        inverse_depth, information: [P] float32 and 1 / its variance; information 0 = unknown.
        target, weight: [P, 2] float32 px and [P] float32 1/px^2; weight 0 = not measured.
        T_ji: [7] float64 SE(3).
        huber: whitened error where the cost turns linear.
        outlier: whitened error beyond which a point has no influence, and its cost is constant;
            may be inf. Points behind the camera are charged like outliers (at most 1000 sigma).
    """
    points = _measured_pixels(pixel, inverse_depth, information, target, weight)
    T_ji = checked_pose("T_ji", T_ji, 7)
    camera = checked_camera(intrinsics)
    check_positive(huber=huber, outlier=outlier)
    H, g = _double(6, 6), _double(6)
    sums = _native.pose_normal_equations(
        *points, T_ji, camera, huber, outlier, H, g, *where(weight)
    )
    return NormalEquations(H, g, *sums)


def solve_pose(
    pixel: Tensor,
    inverse_depth: Tensor,
    information: Tensor,
    target: Tensor,
    weight: Tensor,
    T_init: Tensor,
    intrinsics: Intrinsics,
    *,
    huber: float,
    outlier: float,
    iterations: int,
) -> PoseSolution:
    """Minimise the cost of pose_normal_equations over T_ji by Levenberg-Marquardt.

    The first 3 iterations let every point pull (outlier = inf). Arguments as there; T_init: [7]
    float64; iterations >= 1 in all. A singular system is no error: `converged` is then False.
    """
    points = _measured_pixels(pixel, inverse_depth, information, target, weight)
    T_init = checked_pose("T_init", T_init, 7)
    camera = checked_camera(intrinsics)
    check_positive(huber=huber, outlier=outlier, iterations=iterations)
    T, H = _double(7), _double(6, 6)
    sums = _native.solve_pose(
        *points, T_init, camera, huber, outlier, iterations, T, H, *where(weight)
    )
    return PoseSolution(T, H, *sums)


def ray_normal_equations(
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    *,
    sigma_ray: float,
    sigma_distance: float,
    huber: float,
) -> NormalEquations:
    """Normal equations of the Sim(3) T_kf from matched points, by viewing ray and distance.

    Residual with Y = T_kf X_f: [X_k/|X_k| - Y/|Y| ; log|X_k| - log|Y|], each element divided by its
    sigma, times the root of the weight, and robust on its own (MASt3R-SLAM, Murai et al. 2025).

    Args:
        X_k, X_f: [P, 3] float32, matched points in the keyframe's and the frame's camera.
        weight: [P] float32, confidence of the match; 0 = none.
        T_kf: [8] float64 Sim(3), takes points of the frame to the keyframe.
    """
    check("weight", weight, (-1,), weight)
    check("X_k", X_k, (len(weight), 3), weight)
    check("X_f", X_f, (len(weight), 3), weight)
    T_kf = checked_pose("T_kf", T_kf, 8)
    check_positive(sigma_ray=sigma_ray, sigma_distance=sigma_distance, huber=huber)
    H, g = _double(7, 7), _double(7)
    sums = _native.ray_normal_equations(
        X_k, X_f, weight, T_kf, sigma_ray, sigma_distance, huber, H, g, *where(weight)
    )
    return NormalEquations(H, g, *sums)


def pixel_depth_normal_equations(
    pixel_k: Tensor,
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    intrinsics: Intrinsics,
    *,
    sigma_pixel: float,
    sigma_depth: float,
    huber: float,
) -> NormalEquations:
    """Normal equations of the Sim(3) T_kf from matched points, by pixel and log depth.

    Residual with Y = T_kf X_f: [pixel_k - project(Y) ; log X_k.z - log Y.z], weighed and robust as
    in ray_normal_equations; pixel_k: [P, 2] float32, the keyframe's pixels; the rest as there.
    """
    check("weight", weight, (-1,), weight)
    check("pixel_k", pixel_k, (len(weight), 2), weight)
    check("X_k", X_k, (len(weight), 3), weight)
    check("X_f", X_f, (len(weight), 3), weight)
    T_kf = checked_pose("T_kf", T_kf, 8)
    camera = checked_camera(intrinsics)
    check_positive(sigma_pixel=sigma_pixel, sigma_depth=sigma_depth, huber=huber)
    H, g = _double(7, 7), _double(7)
    sums = _native.pixel_depth_normal_equations(
        *(pixel_k, X_k, X_f, weight, T_kf, camera, sigma_pixel, sigma_depth, huber, H, g),
        *where(weight),
    )
    return NormalEquations(H, g, *sums)


def _measured_pixels(
    pixel: Tensor, inverse_depth: Tensor, information: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """The arguments of a pose residual, checked."""
    check("weight", weight, (-1,), weight)
    check("pixel", pixel, (len(weight), 2), weight)
    check("inverse_depth", inverse_depth, (len(weight),), weight)
    check("information", information, (len(weight),), weight)
    check("target", target, (len(weight), 2), weight)
    return pixel, inverse_depth, information, target, weight


def _double(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)
