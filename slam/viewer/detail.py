"""Level of detail: how many points of each keyframe are drawn."""

from __future__ import annotations

import math

import numpy as np

from slam.viewer.orbit import FIELD_OF_VIEW

POINTS_PER_PIXEL = 2.0  # of a keyframe's part of the picture; more of them would not be seen
FEWEST = 64  # points of a keyframe that is in view, however far away


def bounds(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre [3] and half the extent [3] of the box round all but the farthest points."""
    if len(vertices) == 0:
        return np.zeros(3), np.zeros(3)
    low, high = np.percentile(vertices["X"][:4096], [2, 98], axis=0)
    return (low + high) / 2, (high - low) / 2


def shares(
    counts: np.ndarray,
    corners: np.ndarray,
    matrix: np.ndarray,
    width: float,
    height: float,
    budget: int,
) -> np.ndarray:
    """Points to draw of each keyframe [K] int: none out of view, fewer where it is small.

    Args:
        counts: [K] points there are.
        corners: [K, 8, 3] of the boxes round them, world.
        matrix: [4, 4] world to clip. width, height: of the picture, px.
        budget: points drawn at most, in all.
    """
    clip = corners @ matrix[:, :3].T + matrix[:, 3]
    x, y, w = clip[..., 0], clip[..., 1], clip[..., 3]
    seen = (w > 0).any(1)
    for side in (x, y):
        seen &= ~((side > w).all(1) | (side < -w).all(1))
    wanted = np.where(seen, np.minimum(counts, _pixels(corners, w, width) * POINTS_PER_PIXEL), 0)
    wanted = np.where(seen, np.maximum(wanted, np.minimum(counts, FEWEST)), 0)
    total = wanted.sum()
    if total > budget:
        wanted = wanted * (budget / total)
    return wanted.astype(np.int64)


def _pixels(corners: np.ndarray, w: np.ndarray, width: float) -> np.ndarray:
    """[K] how much of the picture the balls round the boxes cover, px^2; inf round the eye."""
    radius = np.linalg.norm(corners[:, 7] - corners[:, 0], axis=1) / 2
    depth = w.mean(axis=1)
    focal = width / 2 / math.tan(FIELD_OF_VIEW / 2)
    apart = np.maximum(depth - radius, 0)
    with np.errstate(divide="ignore"):
        return np.where(apart > 0, math.pi * (focal * radius / apart) ** 2, np.inf)
