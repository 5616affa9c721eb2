"""The viewer's window under a real display: pixels, commands, runs that it is closed on."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import PACKAGE_PARENT, CommandResult
from viewer_scenes import INTRINSICS, SIZE, picture, pose, scene_of

from slam.export import read_ply
from slam.frame import Features, Frame, InverseDepth, Keyframe
from slam.graph import Graph
from slam.predictors import Grid
from slam.viewer.orbit import project
from slam.viewer.points import pose_matrix
from slam.viewer.scene import Scene, SceneBuilder

if TYPE_CHECKING:
    from slam.viewer.window import Window

pytestmark = pytest.mark.viewer
Command = Callable[..., CommandResult]
BLACK = (0.0, 0.0, 0.0)


# --- where points appear --------------------------------------------------------------------------

COLORS = np.array(
    [[r, g, b] for r in (90, 170, 250) for g in (80, 160, 240) for b in (85, 245)][:10]
)


def ten_points(depths: np.ndarray) -> Keyframe:
    """A keyframe that knows ten depths, each in a colour of its own."""
    grid = Grid(*SIZE, 4)
    places = np.linspace(20, len(grid.pixel) - 25, 10).astype(int)
    rgb = torch.zeros(SIZE[1], SIZE[0], 3, dtype=torch.uint8)
    value, information = torch.ones(len(grid.pixel)), torch.zeros(len(grid.pixel))
    for place, color, depth in zip(places, COLORS, depths, strict=True):
        u, v = grid.pixel[place].int().tolist()
        rgb[v, u] = torch.tensor(color, dtype=torch.uint8)
        value[place], information[place] = 1 / depth, 1e4
    features = Features(rgb[..., 0], rgb, torch.ones(len(grid.pixel)))
    T_WC = torch.from_numpy(pose(0.2, -0.1, 0.3, 0.1, -0.2, 0.05))
    return Keyframe(Frame(0, 0.0, 0.0, features), T_WC, InverseDepth(value, information))


def expected_pixels(
    scene: Scene, eye: np.ndarray, target: np.ndarray, window: Window
) -> np.ndarray:
    """Pixels [10, 2] of the ten colours, by a pinhole camera that is written out here."""
    keyframe = scene.keyframes[0]
    M = pose_matrix(keyframe.T_WC)
    fx, fy, cx, cy = scene.intrinsics
    pixels = []
    for color in COLORS:
        u_z, v_z, z = keyframe.vertices["X"][(keyframe.vertices["rgb"] == color).all(1)][0]
        X_C = keyframe.scale * np.array([(u_z - cx * z) / fx, (v_z - cy * z) / fy, z])
        ray = M[:3, :3] @ X_C + M[:3, 3] - eye
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(forward, window.view.viewpoint.up)
        right = right / np.linalg.norm(right)
        width, height = window.view.width(), window.view.height()
        focal = width / 2 / np.tan(np.radians(30))
        x, y, depth = right @ ray, np.cross(forward, right) @ ray, forward @ ray
        pixels.append([width / 2 + focal * x / depth, height / 2 + focal * y / depth])
    return np.array(pixels) * window.view.devicePixelRatioF()


def seen_pixels(window: Window) -> np.ndarray:
    """Centres [10, 2] of the spots of the ten colours in the framebuffer."""
    image = picture(window)
    spots = []
    for color in COLORS:
        rows, columns = np.nonzero((abs(image - color) <= 1).all(-1))
        assert len(rows), f"nothing of colour {color}"
        assert max(np.ptp(rows), np.ptp(columns)) < 20 * window.view.devicePixelRatioF()
        spots.append([columns.mean() + 0.5, rows.mean() + 0.5])
    return np.array(spots)


def test_ten_points_appear_where_they_are_projected_before_and_after_corrections(
    window: Window,
) -> None:
    graph = Graph(INTRINSICS)
    graph.add_keyframe(ten_points(np.linspace(1.5, 3, 10)))
    builder = SceneBuilder(Grid(*SIZE, 4))
    eye, target = np.array([-0.4, -0.3, -1.0]), np.array([0.1, 0.0, 2.0])
    uploads = []
    for change in ("none", "pose", "scale", "focal length", "depth"):
        if change == "pose":
            moved = torch.from_numpy(pose(-0.1, 0.2, 0.1, -0.1, 0.15, 0.2))
            graph.adopt({0: moved}, {})
        elif change == "scale":
            graph.adopt({}, {}, scales={0: 1.3})
        elif change == "focal length":
            graph.adopt({}, {}, (75.0, 80.0, 39.0, 31.0))
        elif change == "depth":
            depth = graph.keyframe(0).depth
            bent = depth.value * torch.linspace(0.9, 1.1, len(depth.value))
            graph.set_depth(0, replace(depth, value=bent))
        scene = builder.build(graph.snapshot())
        window.show_scene(scene)
        window.set_layer("keyframes", shown=False)
        window.set_layer("camera", shown=False)
        window.view.viewpoint = window.view.viewpoint.looking(eye, target)
        seen = seen_pixels(window)
        wanted = expected_pixels(scene, eye, target, window)
        assert np.linalg.norm(seen - wanted, axis=1).max() < 1.0, change
        uploads.append(window.view.uploads())
    assert uploads == [1, 1, 1, 1, 2]


@pytest.mark.slow
def test_the_same_on_a_screen_of_high_resolution(app: Any) -> None:
    name = "test_ten_points_appear_where_they_are_projected_before_and_after_corrections"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", f"{__file__}::{name}"],
        env=os.environ | {"QT_SCALE_FACTOR": "2"},
        cwd=PACKAGE_PARENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_what_is_seen_from_behind_can_be_hidden(window: Window) -> None:
    scene = scene_of(1)
    window.show_scene(scene)
    for layer in ("keyframes", "camera"):
        window.set_layer(layer, shown=False)
    front, back = np.array([0.0, 0, 0]), np.array([0.0, 0, 4])
    plane = np.array([0.0, 0, 2])

    def filled(eye: np.ndarray) -> float:
        window.view.viewpoint = window.view.viewpoint.looking(eye, plane)
        return float((picture(window) > 0).any(-1).mean())

    assert filled(front) > 0.1 and filled(back) == 0
    window.actions_of["see_through"].setChecked(False)
    assert filled(back) > 0.1


# --- commands -------------------------------------------------------------------------------------


def trigger(window: Window, name: str) -> None:
    window.actions_of[name].trigger()


@pytest.fixture
def shown(window: Window) -> Window:
    """A window with three keyframes, a path and edges."""
    scene = scene_of(3)
    path = np.array([k.T_WC for k in scene.keyframes])
    path[:, 1] += 0.2  # or it would hide the edges
    edges = np.array([[0, 1], [1, 2]])
    window.show_scene(replace(scene, path=path, solved=np.array([True, True, False]), edges=edges))
    return window


def test_every_layer_can_be_hidden(shown: Window) -> None:
    for name, box in shown.controls.layers.items():
        if name == "loops":  # there is none in three keyframes
            continue
        before = picture(shown)
        box.click()
        assert (picture(shown) != before).any(), name
        box.click()
        assert (picture(shown) == before).all(), name


def test_points_change_by_colour_confidence_size_and_budget(shown: Window) -> None:
    for box in list(shown.controls.layers.values())[1:]:
        box.setChecked(False)
    pictures = [picture(shown)]
    for _ in range(3):
        trigger(shown, "next_coloring")
        pictures.append(picture(shown))
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))
    trigger(shown, "next_coloring")
    np.testing.assert_array_equal(picture(shown), pictures[0])

    def filled() -> float:
        return float((picture(shown) > 0).any(-1).mean())

    all_of_it = filled()
    trigger(shown, "larger")
    assert filled() > all_of_it
    trigger(shown, "smaller")
    assert filled() == all_of_it
    shown.controls.confidence.setValue(100)
    fewer = filled()
    assert 0.2 * all_of_it < fewer < 0.8 * all_of_it
    trigger(shown, "surer")
    assert filled() < fewer
    trigger(shown, "less_sure")
    assert filled() == fewer
    shown.controls.budget.setRange(100, 10**6)
    shown.controls.budget.setValue(200)
    picture(shown)
    assert 0 < shown.view.drawn <= 200


def test_themes_help_and_screenshots(shown: Window, tmp_path: Path) -> None:
    dark = shown.colors
    trigger(shown, "theme")
    assert shown.colors is not dark and picture(shown)[2, 2].tolist() == list(shown.colors.view)
    trigger(shown, "help")
    assert shown.help_overlay.isVisible() and "pause the run" in shown.help_overlay.text()
    trigger(shown, "help")
    assert not shown.help_overlay.isVisible()
    shown.do_screenshot(tmp_path / "shot.png")
    assert (tmp_path / "shot.png").stat().st_size > 10_000
    shown.do_screenshot(tmp_path / "nowhere" / "shot.png")
    assert "could not write" in shown.statusBar().currentMessage()


def test_exports_what_is_confident_enough(shown: Window, tmp_path: Path) -> None:
    shown.controls.confidence.setValue(50)
    shown.do_export(tmp_path / "map.ply")
    cloud = read_ply(tmp_path / "map.ply")
    assert cloud.confidence is not None and cloud.confidence.min() >= 50
    assert 0 < len(cloud.points) == len(shown.scene.cloud(50)[0]) < shown.scene.points
    (tmp_path / "file").touch()
    shown.do_export(tmp_path / "file" / "map.ply")
    assert "could not write" in shown.statusBar().currentMessage()


def test_the_view_follows_the_chosen_keyframe_until_it_is_moved(shown: Window) -> None:
    trigger(shown, "follow")
    shown.controls.keyframe.setValue(2)
    T_WC = pose_matrix(shown.scene.keyframes[2].T_WC)
    goal = shown.view.viewpoint.behind(T_WC, shown.scene.depth)
    np.testing.assert_allclose(shown.view.viewpoint.eye, goal.eye, atol=1e-6)
    assert "3 of 3" in shown.controls.keyframe_text.text()
    assert shown.panes.pictures["image"].image is not None
    trigger(shown, "reset")
    assert not shown.following
    assert np.linalg.norm(shown.view.viewpoint.eye - goal.eye) > 0.1


def test_the_mouse_turns_moves_and_zooms(shown: Window, app: Any) -> None:
    from PySide6.QtCore import QPoint, QPointF, Qt
    from PySide6.QtGui import QWheelEvent
    from PySide6.QtTest import QTest

    view, left = shown.view, Qt.MouseButton.LeftButton

    def drag(button: Qt.MouseButton, modifier: Qt.KeyboardModifier) -> None:
        QTest.mousePress(view, button, modifier, QPoint(200, 200))
        from PySide6.QtCore import QEvent
        from PySide6.QtGui import QMouseEvent

        move = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(260, 230),
            view.mapToGlobal(QPointF(260, 230)),
            Qt.MouseButton.NoButton,
            button,
            modifier,
        )
        app.sendEvent(view, move)
        QTest.mouseRelease(view, button, modifier, QPoint(260, 230))

    none, control = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier
    before = view.viewpoint
    drag(left, none)
    turned = view.viewpoint
    assert turned.azimuth < before.azimuth and turned.elevation > before.elevation
    np.testing.assert_array_equal(turned.target, before.target)
    for button, modifier in ((left, control), (Qt.MouseButton.RightButton, none)):
        start = view.viewpoint
        drag(button, modifier)
        seen = project(view.matrix(), start.target[None], view.width(), view.height())[0]
        middle = np.array([view.width() / 2, view.height() / 2])
        np.testing.assert_allclose(seen[:2] - middle, [60, 30], atol=1e-3)
    spot = QPointF(100, 100)
    wheel = QWheelEvent(
        *(spot, view.mapToGlobal(spot), QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton),
        *(none, Qt.ScrollPhase.NoScrollPhase, False),
    )
    near = view.viewpoint.distance
    app.sendEvent(view, wheel)
    assert view.viewpoint.distance < near


def test_two_clicks_measure_a_distance_and_a_double_click_chooses_the_centre(
    window: Window,
) -> None:
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    graph = Graph(INTRINSICS)
    graph.add_keyframe(ten_points(np.linspace(1.5, 3, 10)))
    scene = SceneBuilder(Grid(*SIZE, 4)).build(graph.snapshot())
    window.show_scene(scene)
    eye, target = np.array([0.0, 0, -1]), np.array([0.1, 0.0, 2.0])
    window.view.viewpoint = window.view.viewpoint.looking(eye, target)
    pixels = expected_pixels(scene, eye, target, window) / window.view.devicePixelRatioF()
    points, colors, _ = scene.cloud(0)
    ends = [points[(colors == COLORS[n]).all(1)][0] for n in (2, 7)]

    def click(at: np.ndarray) -> None:
        spot = QPoint(*(round(v) for v in at))
        QTest.mouseClick(
            window.view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot
        )

    click(pixels[2])
    assert np.isnan(window.ruler.distance)  # nobody asked for it
    trigger(window, "measure")
    click(np.array([3.0, 3.0]))  # nothing is there
    click(pixels[2])
    click(pixels[7])
    assert window.ruler.distance == pytest.approx(np.linalg.norm(ends[0] - ends[1]), rel=1e-4)
    assert f"{window.ruler.distance:.4g}" in window.statusBar().currentMessage()
    trigger(window, "measure")
    assert np.isnan(window.ruler.distance)
    spot = QPoint(*(round(v) for v in pixels[7]))
    QTest.mouseDClick(window.view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)
    np.testing.assert_allclose(window.view.viewpoint.target, ends[1], atol=1e-4)
    np.testing.assert_allclose(window.view.viewpoint.eye, eye, atol=1e-4)


def test_the_keys_of_a_run_reach_it_and_closing_is_told(app: Any) -> None:
    from slam.viewer.commands import COMMANDS
    from slam.viewer.window import Window

    class Steered:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def pause(self, on: bool) -> None:
            self.calls.append(on)

        def step(self) -> None:
            self.calls.append("step")

        def save(self) -> None:
            self.calls.append("save")

    steered, closed = Steered(), []
    window = Window("run", steered, 20.0)
    window.closed.connect(lambda: closed.append(True))
    assert set(window.actions_of) == {command.name for command in COMMANDS}
    for name in ("step", "pause", "save"):
        trigger(window, name)
    assert steered.calls == [True, "step", False, "save"]
    trigger(window, "close")
    assert closed == [True]
    window.deleteLater()
