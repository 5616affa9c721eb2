"""Points as the graphics card keeps them: 16 bytes each, uploaded once, moved by a matrix.

A keyframe's points are stored as z (u, v, 1): pixel and depth. The matrix T_WC K^-1 takes them to
the world, so that a new pose, a new scale and a new focal length all change 16 numbers.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from slam.frame import Intrinsics, InverseDepth

VERTEX = np.dtype([("X", "<f4", 3), ("rgb", "u1", 3), ("alpha", "u1")])  # 16 bytes
MOST_CONFIDENT = 255  # what the byte `alpha` of a point holds at most
FARTHEST = 1e4  # of the median depth: what is farther is at infinity
SAME_RATIO = 1e-5  # by which depths may scale differently and still be the same points


def point_vertices(
    pixel: np.ndarray, inverse_depth: np.ndarray, information: np.ndarray, rgb: np.ndarray
) -> np.ndarray:
    """VERTEX [n] of a keyframe's known depths; any first part of them is a fair sample of all.

    `alpha` is the confidence, 1 / relative standard deviation of the depth, rounded, at most 255.

    Args:
        pixel: [P, 2] (u, v) px. inverse_depth, information: [P]. rgb: [P, 3] uint8.
    """
    known = np.flatnonzero((information > 0) & (inverse_depth > 0))
    if len(known):
        known = known[inverse_depth[known] * FARTHEST > np.median(inverse_depth[known])]
    known = shuffled(known)
    trust = inverse_depth[known] * np.sqrt(information[known])
    vertices = np.empty(len(known), VERTEX)
    depth = 1 / inverse_depth[known]
    vertices["X"][:, :2] = pixel[known] * depth[:, None]
    vertices["X"][:, 2] = depth
    vertices["rgb"] = rgb[known]
    vertices["alpha"] = np.minimum(np.round(trust), MOST_CONFIDENT)
    return vertices


def cloud_vertices(
    points: np.ndarray, colors: np.ndarray, confidence: np.ndarray | None
) -> np.ndarray:
    """VERTEX [N] of world points, in a fair order.

    Args:
        points: [N, 3] float32. colors: [N, 3] uint8. confidence: [N]; None = all are trusted.
    """
    order = shuffled(np.arange(len(points)))
    vertices = np.empty(len(points), VERTEX)
    vertices["X"], vertices["rgb"] = points[order], colors[order]
    vertices["alpha"] = MOST_CONFIDENT
    if confidence is not None:
        vertices["alpha"] = np.minimum(np.round(confidence[order]), MOST_CONFIDENT)
    return vertices


def line_vertices(ends: np.ndarray, colors: np.ndarray, alpha: int | np.ndarray) -> np.ndarray:
    """VERTEX [2 E] of line segments.

    Args:
        ends: [E, 2, 3] world. colors: [3] or [E, 3] uint8. alpha: opacity 0..255, or [E].
    """
    vertices = np.empty((len(ends), 2), VERTEX)
    vertices["X"] = ends
    vertices["rgb"] = np.broadcast_to(colors, (len(ends), 3))[:, None]
    vertices["alpha"] = np.broadcast_to(alpha, len(ends))[:, None]
    return vertices.reshape(-1)


def shuffled(rows: np.ndarray) -> np.ndarray:
    """The rows in an order that looks random, and is the same every time."""
    return np.random.default_rng(len(rows)).permutation(rows)


def pose_matrix(T_WC: np.ndarray) -> np.ndarray:
    """[4, 4] of a pose [7]."""
    M = np.eye(4)
    M[:3, :3] = Rotation.from_quat(T_WC[3:]).as_matrix()
    M[:3, 3] = T_WC[:3]
    return M


def vertex_matrix(T_WC: np.ndarray, intrinsics: Intrinsics, scale: float) -> np.ndarray:
    """[4, 4] from a keyframe's vertices to the world.

    Args: scale: by which the depths have grown since the vertices were made.
    """
    fx, fy, cx, cy = intrinsics
    M = np.eye(4)
    M[:3, :3] = scale * np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1]])
    return pose_matrix(T_WC) @ M


def growth(before: InverseDepth, after: InverseDepth) -> float | None:
    """Factor by which all distances grew, 1 for the same ones; None where more has changed."""
    if before is after:
        return 1.0
    if before.value.shape != after.value.shape:
        return None
    ratio = (before.value / after.value).numpy()
    scale = float(np.median(ratio))
    trusts = [(d.value**2 * d.information).numpy() for d in (before, after)]
    same = np.isfinite(ratio).all() and np.allclose(ratio, scale, rtol=SAME_RATIO, atol=0)
    return scale if same and np.allclose(*trusts, rtol=1e-3, atol=1e-6) else None
