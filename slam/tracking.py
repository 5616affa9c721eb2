"""Frame + keyframe -> pose: robust Gauss-Newton on the pixels, with every depth's own variance."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from slam import kernels
from slam.config import TrackingSettings
from slam.frame import Correspondence, Intrinsics, InverseDepth, TrackResult
from slam.lie import se3_from_matrix

SPREAD = 100.0  # of points given to OpenCV, which raises where theirs is below 0.003


def track(
    pixel: Tensor,
    depth: InverseDepth,
    measured: Correspondence,
    T_guess: Tensor,
    intrinsics: Intrinsics,
    settings: TrackingSettings,
) -> TrackResult:
    """Pose of a frame against a keyframe.

    A depth's variance counts along its epipolar line only, so that a grid pixel of unknown depth
    still says where the frame is not.

    Args:
        pixel: [P, 2] float32 px, grid pixels of the keyframe.
        depth: of those pixels.
        measured: where they land in the frame.
        T_guess: [7] float64 SE(3), start, takes points of the keyframe to the frame.
        intrinsics: fx, fy, cx, cy px of both.
    """
    solution = kernels.solve_pose(
        pixel,
        depth.value,
        usable_information(depth, measured, settings),
        measured.target,
        measured.weight,
        T_guess,
        intrinsics,
        huber=settings.huber,
        outlier=settings.outlier,
        iterations=settings.iterations,
    )
    count = max(solution.count, 1)
    return TrackResult(
        T_fk=solution.T,
        inlier_fraction=solution.inliers / count,
        count=solution.count,
        cost=solution.cost / count,
    )


def usable_information(
    depth: InverseDepth, measured: Correspondence, settings: TrackingSettings
) -> Tensor:
    """Information [P] of the depths that may say where the frame is; 0 = left out.

    Depths known to `known_depth_sigma` alone, where there are enough of them: vaguer ones have a
    say only near zero translation, where their variance vanishes, and would hold the pose there.
    """
    known = depth.information > (settings.known_depth_sigma * depth.value) ** -2
    seen = measured.weight > 0
    enough = max(settings.minimum_points, settings.enough_known * int(seen.sum()))
    if int((known & seen).sum()) >= enough:
        return torch.where(known, depth.information, 0.0)
    floor = (settings.unknown_depth_sigma * depth.value.clamp(min=1e-6)) ** -2
    return torch.maximum(depth.information, floor)


def track_from_scratch(
    pixel: Tensor,
    depth: InverseDepth,
    measured: Correspondence,
    intrinsics: Intrinsics,
    settings: TrackingSettings,
) -> TrackResult | None:
    """The same without a guess: a robust perspective-n-point pose first (MAGSAC)."""
    known = ((measured.weight > 0) & (depth.information > 0)).numpy()
    if known.sum() < settings.minimum_points:
        return None
    points = unproject(pixel, depth.value, intrinsics)[known]
    T_guess = perspective_n_point(
        points.numpy(), measured.target[known].numpy(), intrinsics, settings.pnp_error
    )
    if T_guess is None:
        return None
    return track(pixel, depth, measured, T_guess, intrinsics, settings)


def better(first: TrackResult, second: TrackResult | None) -> TrackResult:
    """The result with more inliers."""
    if second is None:
        return first
    return max(first, second, key=lambda r: r.inlier_fraction * r.count)


def unproject(pixel: Tensor, inverse_depth: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Points [P, 3] float32 in the camera of pixels [P, 2] with inverse depths [P]."""
    fx, fy, cx, cy = intrinsics
    u, v = pixel.unbind(-1)
    z = 1 / inverse_depth.clamp(min=1e-9)
    return torch.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)


def perspective_n_point(
    points: np.ndarray, target: np.ndarray, intrinsics: Intrinsics, error: float
) -> Tensor | None:
    """Pose [7] that takes `points` [N, 3] to the camera that sees them at `target` [N, 2] px.

    Args: error: px, beyond which a match is an outlier. Returns None where there is no consensus.
    """
    fx, fy, cx, cy = intrinsics
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    spread = float(np.std(points.astype(np.float64), axis=0).max()) if len(points) else 0.0
    if not 0 < spread < float("inf"):
        return None
    unit = SPREAD / spread
    found, rotation, translation, inliers = cv2.solvePnPRansac(
        unit * points.astype(np.float64),
        target.astype(np.float64),
        K,
        None,
        reprojectionError=error,
        iterationsCount=200,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not found or inliers is None or len(inliers) < 12:
        return None
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0] / unit
    return se3_from_matrix(torch.from_numpy(T))
