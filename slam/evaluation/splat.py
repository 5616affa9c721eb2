"""Pictures of point clouds with numpy: square splats and a z-buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

LARGEST_SPLAT = 12  # px; nearer points do not grow further


@dataclass(frozen=True, slots=True)
class View:
    """A pinhole camera without distortion."""

    pose: np.ndarray  # [7] float64 T_WC
    focal: float  # px
    width: int  # px
    height: int  # px
    nearest: float  # > 0, depth before which nothing is drawn, unit of the points

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, 2] and depths [N] of world points [N, 3]; no use where depth < nearest."""
        R = Rotation.from_quat(self.pose[3:]).as_matrix()
        X_C = (points - self.pose[:3]) @ R
        depth = X_C[:, 2]
        safe = np.maximum(depth, self.nearest)
        centre = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        return self.focal * X_C[:, :2] / safe[:, None] + centre, depth


def render_view(
    points: np.ndarray, colors: np.ndarray, view: View, point_size: float, background: np.ndarray
) -> np.ndarray:
    """The cloud seen by a camera, [H, W, 3] uint8.

    Args:
        points: [N, 3] world. colors: [N, 3] uint8. point_size: edge of a splat, unit of the points.
        background: [3] uint8.
    """
    pixels, depth = view.project(points)
    seen = depth >= view.nearest
    edge = np.minimum(view.focal * point_size / np.maximum(depth, view.nearest), LARGEST_SPLAT)
    return splat(
        pixels[seen],
        depth[seen],
        colors[seen],
        np.maximum(np.ceil(edge[seen]), 1),
        (view.height, view.width),
        background,
    )


def splat(
    pixels: np.ndarray,
    depth: np.ndarray,
    colors: np.ndarray,
    edges: np.ndarray,
    shape: tuple[int, int],
    background: np.ndarray,
) -> np.ndarray:
    """Squares of constant depth; the nearest wins, and of equals the darker, in any order.

    Args:
        pixels: [N, 2] centres (u, v). depth: [N] > 0. colors: [N, 3] uint8.
        edges: [N] side of each square, px >= 1. shape: (H, W). background: [3] uint8.
    Returns [H, W, 3] uint8.
    """
    height, width = shape
    # A positive float32 orders as its bits do: depth above, colour below, one minimum serves both.
    bits = depth.astype(np.float32).view(np.int32).astype(np.int64) << 24
    packed = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    keys = bits | packed
    nothing = np.iinfo(np.int64).max
    buffer = np.full(height * width, nothing)
    corner = np.floor(pixels - (edges[:, None] - 1) / 2 + 0.5)
    near = (corner > -LARGEST_SPLAT).all(axis=1) & (corner < [width, height]).all(axis=1)
    corner, keys, edges = corner[near].astype(np.int64), keys[near], edges[near]
    largest = int(edges.max()) if len(edges) else 0
    for dv in range(largest):
        for du in range(largest):
            u, v = corner[:, 0] + du, corner[:, 1] + dv
            inside = (edges > max(du, dv)) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            np.minimum.at(buffer, (v * width + u)[inside], keys[inside])
    image = np.stack([(buffer >> shift) & 255 for shift in (16, 8, 0)], axis=1).astype(np.uint8)
    image[buffer == nothing] = background
    return image.reshape(height, width, 3)


def halve(image: np.ndarray) -> np.ndarray:
    """The image at half size, each pixel the mean of four, [H / 2, W / 2, 3] uint8; sides even."""
    height, width, _ = image.shape
    blocks = image.reshape(height // 2, 2, width // 2, 2, 3).astype(np.uint16)
    return ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
