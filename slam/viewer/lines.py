"""The lines of a scene: path, frusta, edges."""

from __future__ import annotations

import numpy as np

from slam.frame import Intrinsics
from slam.viewer.colors import Color, Theme
from slam.viewer.points import VERTEX, line_vertices, pose_matrix
from slam.viewer.scene import Scene

FRUSTUM = 0.07  # depth of a frustum, of the median depth of what the cameras see
CAMERA = 1.6  # the current camera's is so much larger
EDGE_ALPHA, LOOP_ALPHA = 90, 140  # opacity
SEGMENTS = 10  # of a frustum


def scene_lines(scene: Scene, colors: Theme) -> dict[str, np.ndarray]:
    """Layer to the VERTEX of its segments: all but the current camera's."""
    covisible = edge_lines(scene, loops=False, color=colors.edge, alpha=EDGE_ALPHA)
    return {
        "edges": covisible,
        "loops": edge_lines(scene, loops=True, color=colors.loop, alpha=LOOP_ALPHA),
        "path": path_lines(scene, colors.path, colors.guessed),
        "keyframes": keyframe_lines(scene, colors.keyframe),
    }


def path_lines(scene: Scene, solved: Color, guessed: Color) -> np.ndarray:
    """VERTEX of the frames' path; where a pose is a guess, in the other colour.

    From the last frame of one source to the first of the next there is nothing to be seen.
    """
    if len(scene.path) < 2:
        return np.empty(0, VERTEX)
    ends = np.stack([scene.path[:-1, :3], scene.path[1:, :3]], axis=1)
    colors = np.where(scene.solved[1:, None], np.array(solved), np.array(guessed))
    alpha = np.full(len(ends), 255)
    if len(scene.source):
        alpha[np.diff(scene.source) != 0] = 0
    return line_vertices(ends, colors, alpha)


def drawn_until(scene: Scene, keyframes: int, frames: int) -> dict[str, int]:
    """Layer to how many of its vertices show the first so many keyframes and posed frames."""
    known = scene.edges[:, 1] < keyframes
    return {
        "edges": 2 * int((known & ~scene.loops).sum()),
        "loops": 2 * int((known & scene.loops).sum()),
        "path": 2 * max(frames - 1, 0),
        "keyframes": 2 * SEGMENTS * keyframes,
    }


def frustum_lines(
    T_WC: np.ndarray, intrinsics: Intrinsics, size: tuple[int, int], depth: float, color: Color
) -> np.ndarray:
    """VERTEX of the pyramids that cameras see, up to a depth.

    Args: T_WC: [N, 7]. size: (width, height) px of the images.
    """
    fx, fy, cx, cy = intrinsics
    width, height = size
    left, right = (-0.5 - cx) / fx, (width - 0.5 - cx) / fx
    top, bottom = (-0.5 - cy) / fy, (height - 0.5 - cy) / fy
    tip = np.zeros(3)
    corners = [(left, top, 1.0), (right, top, 1.0), (right, bottom, 1.0), (left, bottom, 1.0)]
    ring = [np.array(corner) * depth for corner in corners]
    mark = np.array([(left + right) / 2, 1.25 * top, 1.0]) * depth  # which side is up
    ends = [(tip, corner) for corner in ring]
    ends += [(ring[n], ring[(n + 1) % 4]) for n in range(4)]
    ends += [(ring[0], mark), (ring[1], mark)]
    shape = np.array(ends)
    matrices = np.array([pose_matrix(T) for T in T_WC]).reshape(-1, 4, 4)
    moved = np.einsum("kij,eaj->keai", matrices[:, :3, :3], shape) + matrices[:, None, None, :3, 3]
    return line_vertices(moved.reshape(-1, 2, 3), np.array(color), 255)


def keyframe_lines(scene: Scene, color: Color) -> np.ndarray:
    """VERTEX of all keyframes' frusta."""
    poses = np.array([k.T_WC for k in scene.keyframes]).reshape(-1, 7)
    return frustum_lines(poses, scene.intrinsics, scene.size, FRUSTUM * scene.depth, color)


def camera_lines(scene: Scene, T_WC: np.ndarray, color: Color) -> np.ndarray:
    """VERTEX of one camera [7] that stands out."""
    depth = CAMERA * FRUSTUM * scene.depth
    return frustum_lines(T_WC[None], scene.intrinsics, scene.size, depth, color)


def edge_lines(scene: Scene, *, loops: bool, color: Color, alpha: int) -> np.ndarray:
    """VERTEX of the edges between keyframes: those that close loops, or the others."""
    chosen = scene.edges[scene.loops == loops]
    chosen = chosen[(chosen < len(scene.keyframes)).all(axis=1)]
    if not len(chosen):
        return np.empty(0, VERTEX)
    positions = np.array([k.T_WC[:3] for k in scene.keyframes])
    return line_vertices(positions[chosen], np.array(color), alpha)
