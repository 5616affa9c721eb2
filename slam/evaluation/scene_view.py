"""From where to look at a map: what is up, the box that matters, a viewpoint near the path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from slam.evaluation.splat import View, halve, render_view
from slam.trajectory import Trajectory

FIELD_OF_VIEW = 60.0  # deg, horizontal, of the perspective picture
CANDIDATES = 12  # poses along the path that are tried as viewpoint
TRIAL_WIDTH = 96  # px, of the trial pictures
TRIAL_POINTS = 50_000
STEP_BACK = 0.7  # of the median depth: how far behind a pose the viewer stands
STEP_UP = 0.4  # of the median depth: how far above
LONG_SIDE = 1.5  # length over width of a map that is drawn with its long side across the page
SPLAT_OF_EXTENT = 1 / 400  # edge of a splat over the scene's extent
BIN_OF_RADIUS = 0.03  # width of a bin in the histograms of ground_plane, of the map's radius
IMAGE_DOWN_WEIGHT = 0.05  # of image down against level x axes, in up_direction
CLEAR_ANSWER = 0.3  # length of the mean down direction below which cameras do not agree on it


@dataclass(frozen=True, slots=True)
class GroundPlane:
    """A frame to look from above: right and away span the ground, up points at the viewer."""

    origin: np.ndarray  # [3] world, what has coordinates 0
    right: np.ndarray  # [3] unit
    away: np.ndarray  # [3] unit
    up: np.ndarray  # [3] unit = right x away

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] (along right, along away, height) of world points [N, 3]."""
        return (points - self.origin) @ np.stack([self.right, self.away, self.up], axis=1)


def up_direction(trajectory: Trajectory) -> np.ndarray:
    """Where up is, [3] unit: across the cameras' x axes, and against the mean of their y axes.

    Minimises mean (x_i . u)^2 + w |u + mean y|^2: a camera that looks down keeps its x axis level,
    and where it does not turn, image down decides. Where the cameras do not agree on down (one that
    rolls), up is the direction that the path extends least in.
    """
    down = trajectory.rotations.apply([0.0, 1.0, 0.0]).mean(axis=0)
    if np.linalg.norm(down) < CLEAR_ANSWER:
        centred = trajectory.positions - trajectory.positions.mean(axis=0)
        normal = np.linalg.svd(centred, full_matrices=True)[2][2]
        return normal if normal @ down <= 0 else -normal
    x_axes = trajectory.rotations.apply([1.0, 0.0, 0.0])
    A = x_axes.T @ x_axes / len(x_axes)
    up = np.linalg.solve(A + IMAGE_DOWN_WEIGHT * np.eye(3), -down)
    return up / np.linalg.norm(up)


def ground_plane(trajectory: Trajectory, points: np.ndarray) -> GroundPlane:
    """The plane across up_direction, turned as a floor plan is drawn: walls along the page.

    Of all turns the one whose histograms along both axes are sharpest (least entropy). The first
    camera looks up the page, unless the map is long: then its long side lies across the page.
    """
    up = up_direction(trajectory)
    spread = points if len(points) >= 100 else trajectory.positions
    spread = spread[:: max(1, len(spread) // TRIAL_POINTS)]
    east = np.cross(np.eye(3)[np.argmin(np.abs(up))], up)
    east = east / np.linalg.norm(east)
    north = np.cross(up, east)
    flat = spread @ np.stack([east, north], axis=1)
    angles = np.radians(np.arange(0, 90, 2.0))
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across = turns[np.argmin([_entropy(flat, turn) for turn in turns])]
    right = across[0] * east + across[1] * north
    away = np.cross(up, right)
    first_view = trajectory.rotations[0].apply([0.0, 0.0, 1.0])
    if abs(right @ first_view) > abs(away @ first_view):
        right, away = away, -right
    everything = np.concatenate([spread, trajectory.positions])
    wide, high = (np.ptp(np.percentile(everything @ axis, [1, 99])) for axis in (right, away))
    if high > LONG_SIDE * wide:
        right, away = away, -right
    if away @ first_view < 0:
        right = -right
    return GroundPlane(trajectory.positions[0], right=right, away=np.cross(up, right), up=up)


def _entropy(flat: np.ndarray, turn: np.ndarray) -> float:
    """Entropy of the points' [N, 2] histograms along a direction and across it."""
    radius = np.median(np.linalg.norm(flat - np.median(flat, axis=0), axis=1))
    total = 0.0
    for direction in (turn, np.array([-turn[1], turn[0]])):
        bins = np.round((flat @ direction) / max(float(radius) * BIN_OF_RADIUS, 1e-12))
        counts = np.unique(bins, return_counts=True)[1]
        share = counts / len(flat)
        total -= float(share @ np.log(share))
    return total


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


def render_map(
    points: np.ndarray,
    colors: np.ndarray,
    trajectory: Trajectory,
    size: tuple[int, int],
    background: np.ndarray,
) -> tuple[np.ndarray, View]:
    """The map seen from behind one of the path's poses [h, w, 3] uint8, drawn at twice the size.

    Args:
        points: [N > 0, 3] world. colors: [N, 3] uint8. size: (w, h) px. background: [3] uint8.
    Returns the picture and the view of twice its size.
    """
    low, high = np.percentile(points, [5, 95], axis=0)
    edge = max(float(np.linalg.norm(high - low)) * SPLAT_OF_EXTENT, 1e-9)
    view = choose_viewpoint(trajectory, points, edge, 2 * size[0], 2 * size[1])
    return halve(render_view(points, colors, view, edge, background)), view


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
