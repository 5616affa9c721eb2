"""From where to look at a map: what is up, the box that matters, a viewpoint near the path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from slam.evaluation.splat import View, render_view
from slam.trajectory import Trajectory

FIELD_OF_VIEW = 60.0  # deg, horizontal, of the perspective picture
CANDIDATES = 12  # poses along the path that are tried as viewpoint
TRIAL_WIDTH = 96  # px, of the trial pictures
TRIAL_POINTS = 50_000
STEP_BACK = 0.35  # of the median depth: how far behind a pose the viewer stands
STEP_UP = 0.12  # of the median depth: how far above
CLEAR_ANSWER = 0.3  # length of the mean down direction below which cameras do not agree on it


@dataclass(frozen=True, slots=True)
class GroundPlane:
    """A frame to look from above: right and away span the ground, up points at the viewer."""

    right: np.ndarray  # [3] unit
    away: np.ndarray  # [3] unit
    up: np.ndarray  # [3] unit = right x away

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] (along right, along away, height) of world points [N, 3]."""
        return points @ np.stack([self.right, self.away, self.up], axis=1)


def up_direction(trajectory: Trajectory) -> np.ndarray:
    """Against the mean of the cameras' y axes (image down), [3] unit.

    Where the cameras do not agree on it (a camera that rolls or looks down while it turns), the
    direction the path extends least in.
    """
    down = trajectory.rotations.apply([0.0, 1.0, 0.0]).mean(axis=0)
    length = np.linalg.norm(down)
    if length > CLEAR_ANSWER:
        return -down / length
    centred = trajectory.positions - trajectory.positions.mean(axis=0)
    normal = np.linalg.svd(centred, full_matrices=True)[2][2]
    return normal if normal @ down <= 0 else -normal


def ground_plane(trajectory: Trajectory, points: np.ndarray) -> GroundPlane:
    """The plane across up_direction, its right along the largest extent of points (or path)."""
    up = up_direction(trajectory)
    spread = points if len(points) >= 3 else trajectory.positions
    centred = spread - np.median(spread, axis=0)
    limit = np.percentile(np.linalg.norm(centred, axis=1), 95)
    centred = centred[np.linalg.norm(centred, axis=1) <= limit]
    horizontal = centred - np.outer(centred @ up, up)
    right = np.linalg.eigh(horizontal.T @ horizontal)[1][:, 2]
    right = right - (right @ up) * up
    if np.linalg.norm(right) < 1e-6 or not np.any(horizontal):
        right = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    right = right / np.linalg.norm(right)
    first_view = trajectory.rotations[0].apply([0.0, 0.0, 1.0])
    if np.cross(up, right) @ first_view < 0:
        right = -right  # the first camera looks away from the viewer: up the page
    return GroundPlane(right=right, away=np.cross(up, right), up=up)


def choose_viewpoint(
    trajectory: Trajectory, points: np.ndarray, point_size: float, width: int, height: int
) -> View:
    """The camera, stepped back and up from a pose of the path, whose picture the map fills most."""
    rows = np.unique(np.linspace(0, len(trajectory) - 1, CANDIDATES).round().astype(int))
    up = up_direction(trajectory)
    trial_height = max(1, round(TRIAL_WIDTH * height / width))
    sample = points[:: max(1, len(points) // TRIAL_POINTS)]
    white, black = np.full(sample.shape, 255, np.uint8), np.zeros(3, np.uint8)
    best, best_filled = None, -1.0
    for row in rows:
        pose, nearest = _step_back(trajectory.poses[row], sample, up)
        trial = View(pose, _focal(TRIAL_WIDTH), TRIAL_WIDTH, trial_height, nearest)
        filled = float(render_view(sample, white, trial, point_size, black).mean())
        if filled > best_filled:
            best, best_filled = View(pose, _focal(width), width, height, nearest), filled
    assert best is not None  # a trajectory that is asked for a viewpoint has a pose
    return best


def _focal(width: int) -> float:
    return width / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))


def _step_back(pose: np.ndarray, points: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, float]:
    """The pose moved back and up, looking at the same place, and the depth of the old pose in it.

    What is nearer than that was behind the camera, and would hide what it saw.
    """
    forward = Rotation.from_quat(pose[3:]).apply([0.0, 0.0, 1.0])
    depth = (points - pose[:3]) @ forward
    ahead = depth[depth > 0]
    distance = float(np.median(ahead)) if len(ahead) else 1.0
    target = pose[:3] + distance * forward
    position = pose[:3] - STEP_BACK * distance * forward + STEP_UP * distance * up
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, up)
    if np.linalg.norm(x) < 1e-3:
        x = Rotation.from_quat(pose[3:]).apply([1.0, 0.0, 0.0])
    x = x / np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z], axis=1)
    stepped = np.concatenate([position, Rotation.from_matrix(R).as_quat()])
    return stepped, STEP_BACK * distance
