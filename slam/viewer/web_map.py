"""A Scene in viser: a cloud per keyframe, which a correction moves without sending it again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import viser
from scipy.spatial.transform import Rotation

from slam.frame import Intrinsics
from slam.viewer.colors import Theme
from slam.viewer.lines import CAMERA, FRUSTUM, scene_lines
from slam.viewer.scene import KeyframeView, Scene

LOOSE = -1  # number of the points that are of no keyframe
LINE_WIDTHS = {"path": 2.0, "keyframes": 1.5, "edges": 1.0, "loops": 1.6}  # px
SAME_CENTRE = 0.01  # px that the principal point may move before points are sent again
DRAWN = 0.5  # size given to viser, which draws points twice as large, for one in the map
FLAT = (1.0, 0.0, 0.0, 0.0)  # wxyz of no rotation


@dataclass(frozen=True, slots=True)
class Choice:
    """Which points are shown, and how."""

    least: float  # confidence
    budget: int  # points at most, in all
    size: float  # of a point; 1 = as large as the spacing of what was measured


@dataclass(frozen=True, slots=True)
class Place:
    """Where the points of a block are: R (scale * X) + position."""

    position: np.ndarray  # [3]
    wxyz: np.ndarray  # [4]
    scale: tuple[float, float, float]  # per axis


@dataclass(frozen=True, slots=True)
class Block:
    """What browsers have of one keyframe."""

    handle: Any  # viser's PointCloudHandle
    vertices: np.ndarray  # VERTEX that the points were made of
    made_with: Intrinsics  # that took them to the camera's frame
    unit: float  # length of 1 in the points as they were sent: halves are enough for them
    shown: tuple[float, float]  # least confidence and share that were sent
    place: Place
    size: float


class WebMap:
    """Shows scenes to all browsers of a server; what has not changed is not sent again."""

    def __init__(self, scene: viser.SceneApi, colors: Theme) -> None:
        self._scene, self._colors = scene, colors
        self._blocks: dict[int, Block] = {}
        self._counts: dict[int, tuple[np.ndarray, float, int]] = {}  # vertices, least, how many
        self._lines: dict[str, tuple[Any, np.ndarray]] = {}
        self._layers: dict[str, Any] = {"points": scene.add_frame("/points", show_axes=False)}
        self._hidden: set[str] = set()
        self._camera: Any = None
        self.sent = 0  # points, in all

    def show(self, shown: Scene, choice: Choice) -> None:
        """Takes over a scene."""
        parts = list(enumerate(shown.keyframes))
        sizes = {n: self._count(n, k.vertices, choice.least) for n, k in parts}
        sizes[LOOSE] = self._count(LOOSE, shown.loose, choice.least)
        share = fair_share(sum(sizes.values()), choice.budget)
        for number, keyframe in parts:
            self._show_keyframe(number, keyframe, shown, choice, share)
        self._show_loose(shown, choice, share)
        for number in [n for n in self._blocks if n >= len(parts)]:
            self._blocks.pop(number).handle.remove()
        for layer, vertices in scene_lines(shown, self._colors).items():
            self._show_lines(layer, vertices)

    def show_camera(self, shown: Scene, T_WC: np.ndarray, image: np.ndarray) -> None:
        """The current camera [7] and what it sees, [h, w, 3] uint8."""
        fy, (width, height) = shown.intrinsics[1], shown.size
        if self._camera is None:
            self._camera = self._scene.add_camera_frustum(
                "/camera",
                fov=2 * math.atan(height / 2 / fy),
                aspect=width / height,
                color=self._colors.camera,
                thickness=2.5,
                thickness_units="screen",
                image=image,
                format="jpeg",
                cast_shadow=False,
                receive_shadow=False,
                visible="camera" not in self._hidden,
            )
        else:
            self._camera.image = image
        self._camera.scale = CAMERA * FRUSTUM * shown.depth
        self._camera.position, self._camera.wxyz = T_WC[:3], T_WC[[6, 3, 4, 5]]

    def set_layer(self, name: str, *, visible: bool) -> None:
        """Shows or hides points, path, keyframes, edges, loops or camera."""
        self._hidden = self._hidden - {name} if visible else self._hidden | {name}
        handle = self._camera if name == "camera" else self._layers.get(name)
        if handle is not None:
            handle.visible = visible

    # --- points -------------------------------------------------------------------------------

    def _show_keyframe(
        self, number: int, keyframe: KeyframeView, shown: Scene, choice: Choice, share: float
    ) -> None:
        before = self._blocks.get(number)
        wanted = choice.least, share
        if before is None or not _still(before, keyframe.vertices, shown.intrinsics, wanted):
            points = camera_points(keyframe.vertices, shown.intrinsics)
            unit = float(np.median(points[:, 2])) if len(points) else 1.0
            block = Block(
                handle=None,
                vertices=keyframe.vertices,
                made_with=shown.intrinsics,
                unit=unit,
                shown=wanted,
                place=keyframe_place(keyframe, unit, shown.intrinsics, shown.intrinsics),
                size=choice.size * DRAWN * shown.stride / shown.intrinsics[0],
            )
            self._send(number, block, points / unit)
            return
        place = keyframe_place(keyframe, before.unit, before.made_with, shown.intrinsics)
        size = choice.size * DRAWN * shown.stride / before.made_with[0]
        self._blocks[number] = _moved(before, place, size)

    def _show_loose(self, shown: Scene, choice: Choice, share: float) -> None:
        before, wanted = self._blocks.get(LOOSE), (choice.least, share)
        if not len(shown.loose):
            return
        points = shown.loose["X"].astype(float)
        middle = np.median(points, axis=0)
        unit = max(float(np.median(np.linalg.norm(points - middle, axis=1))), 1e-12)
        place = Place(middle, np.array(FLAT), (unit, unit, unit))
        size = choice.size / math.sqrt(len(points))
        if before is None or not _still(before, shown.loose, shown.intrinsics, wanted):
            block = Block(None, shown.loose, shown.intrinsics, unit, wanted, place, size)
            self._send(LOOSE, block, (points - middle) / unit)
        else:
            self._blocks[LOOSE] = _moved(before, place, size)

    def _send(self, number: int, block: Block, points: np.ndarray) -> None:
        """Sends the share of a block's points that is confident enough."""
        rows = chosen_rows(block.vertices, *block.shown)
        self.sent += len(rows)
        place = block.place
        handle = self._scene.add_point_cloud(
            f"/points/{number}",
            points=points[rows],
            colors=block.vertices["rgb"][rows],
            point_size=block.size,
            point_shape="square",
            point_shading="flat",
            precision="float16",
            scale=place.scale,
            wxyz=place.wxyz,
            position=place.position,
        )
        self._blocks[number] = replace(block, handle=handle)

    def _count(self, number: int, vertices: np.ndarray, least: float) -> int:
        """How many points of a block are confident enough; counted once."""
        before = self._counts.get(number)
        if before is not None and before[0] is vertices and before[1] == least:
            return before[2]
        count = int(np.count_nonzero(vertices["alpha"] >= least))
        self._counts[number] = vertices, least, count
        return count

    # --- lines --------------------------------------------------------------------------------

    def _show_lines(self, layer: str, vertices: np.ndarray) -> None:
        before = self._lines.get(layer)
        if before is not None and np.array_equal(before[1], vertices):
            return
        segments = vertices.reshape(-1, 2)
        handle = self._scene.add_line_segments(
            f"/{layer}",
            points=segments["X"],
            colors=_on_ground(segments, self._colors.view),
            thickness=LINE_WIDTHS[layer],
            thickness_units="screen",
            visible=layer not in self._hidden,
        )
        self._lines[layer] = handle, vertices
        self._layers[layer] = handle


def camera_points(vertices: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[n, 3] of a keyframe's vertices, in its camera's frame."""
    fx, fy, cx, cy = intrinsics
    X = vertices["X"].astype(float)
    return np.stack([(X[:, 0] - cx * X[:, 2]) / fx, (X[:, 1] - cy * X[:, 2]) / fy, X[:, 2]], axis=1)


def keyframe_place(
    keyframe: KeyframeView, unit: float, made_with: Intrinsics, now: Intrinsics
) -> Place:
    """Where the points of a keyframe are; another focal length stretches them. Args: see Block."""
    size = keyframe.scale * unit
    scale = size * made_with[0] / now[0], size * made_with[1] / now[1], size
    return Place(keyframe.T_WC[:3], keyframe.T_WC[[6, 3, 4, 5]], scale)


def fair_share(count: int, budget: int) -> float:
    """Share of the points that keeps within a budget: 1, or a power of sqrt(1/2).

    A growing map takes few of these steps, and each sends all points again.
    """
    if count <= budget:
        return 1.0
    return 2 ** (math.floor(2 * math.log2(budget / count)) / 2)


def chosen_rows(vertices: np.ndarray, least: float, share: float) -> np.ndarray:
    """Rows of a fair share of the vertices that are confident enough."""
    rows = np.flatnonzero(vertices["alpha"] >= least)
    return rows[: int(share * len(rows))]


def place_matrix(place: Place) -> np.ndarray:
    """[4, 4] from a block's points to the world."""
    M = np.eye(4)
    M[:3, :3] = Rotation.from_quat(place.wxyz[[1, 2, 3, 0]]).as_matrix() * np.array(place.scale)
    M[:3, 3] = place.position
    return M


def _still(
    before: Block, vertices: np.ndarray, now: Intrinsics, wanted: tuple[float, float]
) -> bool:
    """Whether the points that were sent are those that are wanted."""
    centre = max(abs(a - b) for a, b in zip(before.made_with[2:], now[2:], strict=True))
    return before.vertices is vertices and before.shown == wanted and centre < SAME_CENTRE


def _moved(before: Block, place: Place, size: float) -> Block:
    """The block at another place; sends what has changed, and no points."""
    handle = before.handle
    handle.position, handle.wxyz = place.position, place.wxyz
    if place.scale != before.place.scale:
        handle.scale = place.scale
    if size != before.size:
        handle.point_size = size
    return replace(before, place=place, size=size)


def _on_ground(segments: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """[E, 2, 3] uint8, the colours of VERTEX [E, 2] where they lie over the ground."""
    opacity = segments["alpha"][..., None] / 255
    mixed = opacity * segments["rgb"] + (1 - opacity) * np.array(ground)
    return np.rint(mixed).astype(np.uint8)
