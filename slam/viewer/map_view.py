"""The 3D view: draws a Scene from the viewpoint that the mouse moves."""

from __future__ import annotations

import colorsys
import time
from dataclasses import dataclass, replace

import numpy as np
from OpenGL import GL
from pyqtgraph.opengl import GLViewWidget
from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QMouseEvent, QWheelEvent
from PySide6.QtWidgets import QWidget

from slam.viewer.detail import bounds, shares
from slam.viewer.drawing import Buffer, CloudItem, LinesItem, Part, Style, renderer
from slam.viewer.orbit import FIELD_OF_VIEW, Orbit, project
from slam.viewer.points import pose_matrix
from slam.viewer.scene import Scene

SOFTWARE = ("llvmpipe", "softpipe", "swiftshader")  # renderers without a graphics card
SOFTWARE_BUDGET, BUDGET = 200_000, 5_000_000  # points drawn at most
TURN_SPEED = 0.006  # rad per px
WHEEL_SPEED = 0.999  # factor on the distance per eighth of a degree, as Qt counts
CLICK = 4.0  # px that the mouse may move between press and release
REACH = 8.0  # px from a click within which points are picked
SIZE = 1.5  # px of a point, at which near ones grow to cover what their pixel saw
GOLDEN = 0.618034  # of a turn, between the hues of successive keyframes
NO_CAMERA = (0.0, 0.0, 0.0, 0.0)
EVERYTHING = int(GL.GL_COLOR_BUFFER_BIT) | int(GL.GL_DEPTH_BUFFER_BIT)
COLORINGS = ("image", "confidence", "height", "keyframe")  # in the order of the shader
LINE_LAYERS = ("edges", "loops", "path", "keyframes", "camera", "measure")
LINE_WIDTHS = {"path": 2.0, "camera": 2.5, "measure": 2.5, "loops": 1.6}  # px; others 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is drawn of one keyframe, but for the viewpoint."""

    buffer: Buffer
    M_WP: np.ndarray  # [4, 4] from its vertices to the world
    corners: np.ndarray  # [8, 3] of the box round its points, world
    camera: tuple[float, float, float, float]  # fx, fy, cx, cy px; fx = 0: of no camera
    T_CW: np.ndarray  # [4, 4]
    scale: float  # of its vertices
    spacing: float  # of its points at depth 1, unit of the map
    tint: tuple[float, float, float]


class MapView(GLViewWidget):
    """Shows a scene. `viewpoint`, `style`, `budget`, `hidden`, `keyframes` and `lengths` say how;
    change, then `update`.
    """

    moved = Signal()  # by the mouse
    picked = Signal(object)  # a point [3] that was clicked, with `picking` on

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        up = np.array([0.0, -1.0, 0.0])  # until a path tells: the first camera is level
        self.viewpoint = Orbit(up, np.zeros(3), 1.0, 0.0, 0.0)
        self.style = Style(size=SIZE, least=20.0, coloring=0, both_sides=False)
        self.budget = BUDGET
        self.hidden: set[str] = set()
        self.keyframes: int | None = None  # how many, the first ones, are shown; None = all
        self.lengths: dict[str, int] = {}  # vertices of a layer's lines, the first ones; else all
        self.picking = False
        self.background = (0.0, 0.0, 0.0)
        self.paint_seconds = 0.0  # that the last picture took
        self.drawn = 0  # points in it
        self._cloud, self._lines = CloudItem(), LinesItem()
        self.addItem(self._cloud)
        self.addItem(self._lines)
        self._chunks: dict[int, Chunk] = {}
        self._layers = {name: Buffer() for name in LINE_LAYERS}
        self._heights = (0.0, 1.0)
        self._pressed = self._last = QPointF()

    # --- what is shown ------------------------------------------------------------------------

    def show_scene(self, scene: Scene) -> None:
        """Takes over keyframes; only vertices that are another array than before are uploaded."""
        before, self._chunks = self._chunks, {}
        for number, keyframe in enumerate(scene.keyframes):
            T_WC = pose_matrix(keyframe.T_WC)
            chunk = Chunk(
                buffer=self._buffer(before.get(number), keyframe.vertices),
                M_WP=scene.matrix(keyframe),
                corners=_corners(keyframe.vertices, scene.matrix(keyframe)),
                camera=scene.intrinsics,
                T_CW=np.linalg.inv(T_WC),
                scale=keyframe.scale,
                spacing=keyframe.scale * scene.stride / scene.intrinsics[0],
                tint=colorsys.hsv_to_rgb(number * GOLDEN % 1.0, 0.6, 1.0),
            )
            self._chunks[number] = chunk
        if len(scene.loose):
            self._chunks[-1] = Chunk(
                buffer=self._buffer(before.get(-1), scene.loose),
                M_WP=np.eye(4),
                corners=_corners(scene.loose, np.eye(4)),
                camera=NO_CAMERA,
                T_CW=np.eye(4),
                scale=1.0,
                spacing=0.0,
                tint=(1.0, 1.0, 1.0),
            )
        self._free([c for n, c in before.items() if n not in self._chunks])
        self._measure_heights(scene)
        self.update()

    def set_lines(self, layer: str, vertices: np.ndarray) -> None:
        """Replaces the segments VERTEX [2 E] of a layer, one of LINE_LAYERS."""
        self._layers[layer].vertices = vertices
        self.update()

    def uploads(self) -> int:
        """How often points were handed to the graphics card."""
        return sum(chunk.buffer.uploads for chunk in self._chunks.values())

    def _buffer(self, before: Chunk | None, vertices: np.ndarray) -> Buffer:
        buffer = Buffer() if before is None else before.buffer
        buffer.vertices = vertices
        return buffer

    def _free(self, chunks: list[Chunk]) -> None:
        if chunks and self.isValid():
            self.makeCurrent()
            for chunk in chunks:
                chunk.buffer.free()
            self.doneCurrent()

    def _measure_heights(self, scene: Scene) -> None:
        points = scene.cloud(self.style.least, most=20_000)[0]
        if len(points) > 1:
            low, high = np.percentile(points @ self.viewpoint.up, [2, 98])
            self._heights = (float(low), max(float(high), float(low) + 1e-9))

    # --- drawing ------------------------------------------------------------------------------

    def initializeGL(self) -> None:
        """Chooses a budget that fits what draws."""
        super().initializeGL()
        if any(name in renderer().lower() for name in SOFTWARE):
            self.budget = min(self.budget, SOFTWARE_BUDGET)

    def matrix(self) -> np.ndarray:
        """[4, 4] from the world to clip coordinates."""
        return self.viewpoint.matrix(self.width(), self.height())

    def paintGL(self) -> None:
        """One picture. In pyqtgraph's own loop errors would be printed and passed over."""
        start = time.perf_counter()
        GL.glClearColor(*self.background, 1.0)
        GL.glDepthMask(True)
        GL.glClear(EVERYTHING)
        matrix, ratio = self.matrix(), self.devicePixelRatioF()
        self.drawn = 0
        if "points" not in self.hidden:
            parts = self._parts(matrix)
            self.drawn = sum(part.count for part in parts)
            self._cloud.draw(parts, matrix, replace(self.style, size=self.style.size * ratio))
        for name, buffer in self._layers.items():
            count = min(len(buffer.vertices), self.lengths.get(name, len(buffer.vertices)))
            if name not in self.hidden and count:
                width = ratio * LINE_WIDTHS.get(name, 1.0)
                self._lines.draw(buffer, count, matrix, width, on_top=name == "measure")
        GL.glFinish()
        self.paint_seconds = time.perf_counter() - start

    def _parts(self, matrix: np.ndarray) -> list[Part]:
        first = len(self._chunks) if self.keyframes is None else self.keyframes
        chunks = [chunk for number, chunk in self._chunks.items() if number < first]
        if not chunks:
            return []
        counts = np.array([len(chunk.buffer.vertices) for chunk in chunks])
        corners = np.stack([chunk.corners for chunk in chunks])
        size = self.width(), self.height()
        drawn = shares(counts, corners, matrix, *size, self.budget)
        chosen = zip(chunks, counts, drawn, strict=True)
        return [self._part(c, n, int(part)) for c, n, part in chosen if part]

    def _part(self, chunk: Chunk, count: int, drawn: int) -> Part:
        low, high = self._heights
        up = np.append(self.viewpoint.up, 0.0) @ chunk.M_WP
        up[3] -= low
        focal = self.width() / 2 / np.tan(FIELD_OF_VIEW / 2)
        thinned = np.sqrt(count / drawn)
        return Part(
            buffer=chunk.buffer,
            count=drawn,
            M_WP=chunk.M_WP,
            camera=chunk.camera,
            eye=(chunk.T_CW @ np.append(self.viewpoint.eye, 1.0))[:3] / chunk.scale,
            footprint=float(focal * chunk.spacing * thinned / SIZE),
            height=up / (high - low),
            tint=chunk.tint,
        )

    # --- picking ------------------------------------------------------------------------------

    def pick(self, x: float, y: float) -> np.ndarray | None:
        """World point [3] that is seen at a pixel or next to it; None = there is none."""
        best, nearest = None, np.inf
        matrix = self.matrix()
        for part in self._parts(matrix):
            vertices = part.buffer.vertices[: part.count]
            seen = project(matrix @ part.M_WP, vertices["X"], self.width(), self.height())
            near = np.hypot(seen[:, 0] - x, seen[:, 1] - y) < REACH
            rows = np.flatnonzero(near & (vertices["alpha"] >= self.style.least))
            rows = rows[self._faces(vertices["X"][rows], part)]
            if len(rows) and seen[rows, 2].min() < nearest:
                row = rows[np.argmin(seen[rows, 2])]
                nearest = seen[row, 2]
                best = (part.M_WP @ np.append(vertices["X"][row], 1.0))[:3]
        return best

    def _faces(self, X: np.ndarray, part: Part) -> np.ndarray:
        """[N] bool: whose seen side is turned to the eye, as the shader has it."""
        fx, fy, cx, cy = part.camera
        if fx == 0 or self.style.both_sides:
            return np.ones(len(X), bool)
        z = X[:, 2]
        ray = np.stack([(X[:, 0] - cx * z) / fx, (X[:, 1] - cy * z) / fy, z], axis=1)
        return ((ray - part.eye) * ray).sum(axis=1) >= 0

    # --- mouse --------------------------------------------------------------------------------

    def mousePressEvent(self, ev: QMouseEvent) -> None:
        self._pressed = self._last = ev.position()

    def mouseMoveEvent(self, ev: QMouseEvent) -> None:
        """Left turns; right, middle, or left with Ctrl or Shift moves along."""
        step, self._last = ev.position() - self._last, ev.position()
        held = ev.modifiers() & (
            Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
        )
        if ev.buttons() & Qt.MouseButton.LeftButton and not held:
            self.viewpoint = self.viewpoint.turned(-TURN_SPEED * step.x(), TURN_SPEED * step.y())
        elif ev.buttons():
            self.viewpoint = self.viewpoint.panned(step.x(), -step.y(), self.width())
        self.moved.emit()
        self.update()

    def mouseReleaseEvent(self, ev: QMouseEvent) -> None:
        """A click picks a point, where that is wanted."""
        apart = ev.position() - self._pressed
        if self.picking and abs(apart.x()) + abs(apart.y()) < CLICK:
            point = self.pick(ev.position().x(), ev.position().y())
            if point is not None:
                self.picked.emit(point)

    def mouseDoubleClickEvent(self, ev: QMouseEvent) -> None:
        """The point that is clicked becomes what the view turns round."""
        point = self.pick(ev.position().x(), ev.position().y())
        if point is not None and not self.picking:
            self.viewpoint = self.viewpoint.looking(self.viewpoint.eye, point)
            self.moved.emit()
            self.update()

    def wheelEvent(self, ev: QWheelEvent) -> None:
        self.viewpoint = self.viewpoint.zoomed(WHEEL_SPEED ** ev.angleDelta().y())
        self.moved.emit()
        self.update()


def _corners(vertices: np.ndarray, M_WP: np.ndarray) -> np.ndarray:
    """[8, 3] of the box round a keyframe's points, world."""
    centre, half = bounds(vertices)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return (centre + signs * half) @ M_WP[:3, :3].T + M_WP[:3, 3]
