"""Aligning an estimated path with the true one: Umeyama's closed form under Sim(3) or SE(3)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from slam.trajectory import Trajectory

AlignmentKind = Literal["sim3", "se3", "none"]

IDENTITY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
STATIONARY = (
    1e-6  # a path whose RMS radius is below this (m, or relative to its offset) stands still
)
STRAIGHT = 1e-6  # a path whose RMS width is below this fraction of its length is a line


def umeyama(source: np.ndarray, target: np.ndarray, *, with_scale: bool) -> np.ndarray:
    """The transform that takes source points nearest to target points in the least-squares sense.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, eqs. 38-43.

    Args:
        source, target: [N, 3] float64, row by row the same point.
    Returns [8] float64 Sim(3) [tx ty tz qx qy qz qw s], target <- source; s = 1 without scale.
    Raises ValueError for fewer than 3 points, and where either set has no extent.
    """
    if len(source) < 3:
        raise ValueError(f"alignment wants at least 3 matched poses, got {len(source)}")
    _require_motion(source, "estimate")
    _require_motion(target, "ground truth")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    U, singular, Vt = np.linalg.svd(covariance)
    sign = np.ones(3)
    if np.linalg.det(U) * np.linalg.det(Vt) < 0:
        sign[2] = -1
    R = (U * sign) @ Vt
    scale = float(singular @ sign / np.mean(np.sum(centred**2, axis=1))) if with_scale else 1.0
    if not scale > 0:
        raise ValueError("alignment wants two similar paths, got ones without any common motion")
    translation = target_mean - scale * R @ source_mean
    return np.concatenate([translation, Rotation.from_matrix(R).as_quat(), [scale]])


def transform_trajectory(T_AB: np.ndarray, trajectory: Trajectory) -> Trajectory:
    """The same path seen from world A.

    Args:
        T_AB: [8] Sim(3); rotations turn, positions turn, scale and shift.
        trajectory: poses in world B.
    """
    rotation = Rotation.from_quat(T_AB[3:7])
    positions = T_AB[7] * rotation.apply(trajectory.positions) + T_AB[:3]
    quaternions = (rotation * trajectory.rotations).as_quat()
    return Trajectory(trajectory.times, np.concatenate([positions, quaternions], axis=1))


def transform_points(T_AB: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points of world B in world A, [N, 3] float64; T_AB is a Sim(3) [8]."""
    R = Rotation.from_quat(T_AB[3:7]).as_matrix()
    return T_AB[7] * (points.astype(np.float64) @ R.T) + T_AB[:3]


def is_straight(positions: np.ndarray) -> bool:
    """Whether a path [N, 3] is a line: its alignment is then free to turn about that line."""
    singular = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    return bool(singular[1] <= STRAIGHT * singular[0])


def _require_motion(positions: np.ndarray, name: str) -> None:
    mean = positions.mean(axis=0)
    radius = np.sqrt(np.mean(np.sum((positions - mean) ** 2, axis=1)))
    limit = STATIONARY if name == "ground truth" else 1e-9 * (1.0 + np.linalg.norm(mean))
    if radius <= limit:
        raise ValueError(
            f"alignment wants a path that moves, got a stationary {name} "
            f"(RMS radius {radius:.3g} over {len(positions)} poses)"
        )
