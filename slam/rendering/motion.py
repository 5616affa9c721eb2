"""Camera paths: smooth splines through way points, with the tremor of a hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tremor:
    """A hand's unsteadiness: sums of sinusoids, so that it is smooth and known at every time."""

    frequency: np.ndarray  # [K] Hz
    phase: np.ndarray  # [K, 6] rad
    amplitude: np.ndarray  # [K, 6]; columns 0..2 translation, m; 3..5 rotation, rad

    def at(self, times: np.ndarray) -> np.ndarray:
        """Displacement [N, 6] at the given times (s): camera-frame translation m, rotation rad."""
        angle = 2 * np.pi * times[:, None, None] * self.frequency[:, None] + self.phase
        return (self.amplitude * np.sin(angle)).sum(1)


def hand_tremor(seed: int, *, translation: float = 0.006, rotation: float = 0.008) -> Tremor:
    """Tremor between 0.7 and 7 Hz, slower swings larger, with about these amplitudes (m, rad)."""
    rng = np.random.default_rng(seed)
    frequency = np.geomspace(0.7, 7.0, 8) * rng.uniform(0.9, 1.1, 8)
    share = frequency**-1.2 / np.linalg.norm(frequency**-1.2)
    scale = np.array([translation] * 3 + [rotation] * 3)
    amplitude = share[:, None] * scale * rng.uniform(0.6, 1.4, (8, 6))
    return Tremor(frequency, rng.uniform(0, 2 * np.pi, (8, 6)), amplitude)


@dataclass(frozen=True, slots=True)
class SplineTrajectory:
    """A camera that follows one spline and looks at another; known at every time."""

    centre: CubicSpline  # time (s) -> camera centre, world, m
    target: CubicSpline  # time (s) -> the point it looks at, world, m
    tremor: Tremor | None

    def poses(self, times: np.ndarray) -> Tensor:
        """T_WC [N, 4, 4] float64 at the given times (s)."""
        times = np.atleast_1d(np.asarray(times, np.float64))
        T = np.tile(np.eye(4), (len(times), 1, 1))
        T[:, :3, :3] = looking_along(self.target(times) - self.centre(times))
        T[:, :3, 3] = self.centre(times)
        if self.tremor is not None:
            shake = self.tremor.at(times)
            T[:, :3, 3] += np.einsum("nij,nj->ni", T[:, :3, :3], shake[:, :3])
            T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(shake[:, 3:]).as_matrix()
        return torch.from_numpy(T)


def spline_trajectory(
    times: np.ndarray,
    centres: np.ndarray,
    targets: np.ndarray,
    *,
    tremor: Tremor | None = None,
) -> SplineTrajectory:
    """A smooth path through way points.

    Args:
        times: [K] s, increasing.
        centres: [K, 3] where the camera is, world (z up), m.
        targets: [K, 3] the point it looks at, m; never straight above or below the centre.
    """
    times, centres, targets = (np.asarray(a, np.float64) for a in (times, centres, targets))
    if len(times) < 2 or (np.diff(times) <= 0).any():
        raise ValueError(f"way points want at least 2 increasing times, got {times.tolist()}")
    if centres.shape != (len(times), 3) or targets.shape != centres.shape:
        raise ValueError(
            f"{len(times)} way points want centres and targets [{len(times)}, 3], "
            f"got {list(centres.shape)} and {list(targets.shape)}"
        )
    return SplineTrajectory(CubicSpline(times, centres), CubicSpline(times, targets), tremor)


def looking_along(direction: np.ndarray) -> np.ndarray:
    """R_WC [..., 3, 3] of a level camera (world z up) that looks along `direction` [..., 3]."""
    forward = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    if (length < 1e-6).any():
        raise ValueError("a level camera cannot look straight up or down: move the target aside")
    right = right / length
    return np.stack([right, np.cross(forward, right), forward], axis=-1)


def tum_poses(T_WC: Tensor) -> np.ndarray:
    """[N, 4, 4] as [N, 7]: tx ty tz qx qy qz qw."""
    T = T_WC.cpu().numpy()
    quaternion = Rotation.from_matrix(T[:, :3, :3]).as_quat()
    return np.concatenate([T[:, :3, 3], quaternion], axis=1)
