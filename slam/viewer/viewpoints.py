"""Where to look at a whole scene from."""

from __future__ import annotations

import numpy as np

from slam.evaluation.scene_view import up_direction
from slam.trajectory import Trajectory
from slam.viewer.orbit import Orbit
from slam.viewer.scene import Scene

SAMPLE = 20_000  # points that tell where the map is
AWAY = 0.95  # distance from the middle of the map, of its diagonal
HEIGHT = 0.62  # rad above it
ASIDE = 0.45  # rad, from straight behind the first camera


def scene_up(scene: Scene) -> np.ndarray:
    """Where up is [3], from the keyframes' poses; against the first image's down where none are."""
    poses = np.array([k.T_WC for k in scene.keyframes]).reshape(-1, 7)
    if not len(poses):
        return np.array([0.0, -1.0, 0.0])
    return up_direction(Trajectory(np.arange(len(poses), dtype=float), poses))


def overview(scene: Scene, least: float) -> Orbit:
    """All of the map, from above and behind the first camera.

    Args: least: confidence of the points that count.
    """
    up = scene_up(scene)
    points, path = scene.cloud(least, most=SAMPLE)[0].astype(float), scene.path[:, :3]
    start = Orbit(up, np.zeros(3), 1.0, 0.0, HEIGHT)
    if len(points) + len(path) == 0:
        return start
    middle = np.percentile(points, [4, 96], axis=0) if len(points) else path
    whole = np.concatenate([middle, path])
    low, high = whole.min(axis=0), whole.max(axis=0)
    target, size = (low + high) / 2, float(np.linalg.norm(high - low))
    forward = target - path.mean(axis=0) if len(path) else -start.globe[0]
    east, north, _ = start.globe @ -forward
    azimuth = float(np.arctan2(north, east)) + ASIDE
    return Orbit(up, target, max(AWAY * size, 1e-6), azimuth, HEIGHT)
