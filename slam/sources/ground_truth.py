"""Ground-truth files of data sets as trajectories of the camera."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from slam.sources.lists import read_numbers
from slam.trajectory import Trajectory

logger = logging.getLogger(__name__)

MIRROR = np.array([1.0, -1, 1, -1, 1, -1, 1])  # S T S, S = diag(1, -1, 1, 1), on [t, q]


def read_tum_poses(path: Path) -> Trajectory:
    """'t tx ty tz qx qy qz qw' lines."""
    table = read_numbers(path, 8)
    return to_trajectory(path, table[:, 0], table[:, 1:])


def read_euroc_poses(path: Path) -> Trajectory:
    """'t[ns], p x y z, q w x y z, ...' lines, of the body."""
    table = read_numbers(path, 8)
    return to_trajectory(path, table[:, 0] / 1e9, table[:, [1, 2, 3, 5, 6, 7, 4]])


def poses_from_matrices(matrices: np.ndarray) -> np.ndarray:
    """[N, 7] poses of [N, 3 or 4, 4] matrices."""
    quaternions = Rotation.from_matrix(matrices[:, :3, :3]).as_quat()
    return np.concatenate([matrices[:, :3, 3], quaternions], axis=1)


def matrices_from_poses(poses: np.ndarray) -> np.ndarray:
    """[N, 4, 4] matrices of [N, 7] poses."""
    matrices = np.tile(np.eye(4), (len(poses), 1, 1))
    matrices[:, :3, :3] = Rotation.from_quat(poses[:, 3:]).as_matrix()
    matrices[:, :3, 3] = poses[:, :3]
    return matrices


def moved_to_camera(body: Trajectory, T_BC: np.ndarray) -> Trajectory:
    """The path of a camera mounted on a body at T_BC [4, 4] (camera to body)."""
    T_WC = matrices_from_poses(body.poses) @ T_BC
    return Trajectory(body.times, poses_from_matrices(T_WC))


def mirrored(trajectory: Trajectory) -> Trajectory:
    """T <- S T S with S = diag(1, -1, 1, 1): the same path with y flipped, in world and camera."""
    return Trajectory(trajectory.times, trajectory.poses * MIRROR)


def to_trajectory(path: Path, times: np.ndarray, poses: np.ndarray) -> Trajectory:
    """Poses sorted by time, one a stamp, quaternions normalised; ValueError where one is zero."""
    norms = np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
    wrong = np.flatnonzero(np.abs(norms[:, 0] - 1) > 0.01)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}: wanted unit quaternions, got norm {norms[row, 0]:.4g} at time {times[row]}"
        )
    sorted_times, rows = np.unique(times, return_index=True)
    if len(rows) != len(times) or (np.diff(times) <= 0).any():
        logger.warning(
            "%s: ground truth sorted by time, %d of %d rows kept", path, len(rows), len(times)
        )
    return Trajectory(sorted_times, np.hstack([poses[:, :3], poses[:, 3:] / norms])[rows])
