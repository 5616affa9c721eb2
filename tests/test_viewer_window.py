"""The viewer's window under a real display: pixels, commands, runs that it is closed on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import PACKAGE_PARENT, CommandResult, expect_one_line
from sequences import OUTPUTS, SAMPLE, cut_sample
from viewer_scenes import INTRINSICS, SIZE, pose, scene_of

from slam.config import Config, load_config
from slam.export import read_ply
from slam.frame import Features, Frame, InverseDepth, Keyframe
from slam.graph import Graph
from slam.outputs import RunResult
from slam.predictors import Grid
from slam.run import run
from slam.viewer import why_not
from slam.viewer.orbit import project
from slam.viewer.points import VERTEX, pose_matrix
from slam.viewer.scene import KeyframeView, Scene, SceneBuilder

if TYPE_CHECKING:
    from slam.viewer.live import Live
    from slam.viewer.window import Window

pytestmark = pytest.mark.viewer
Command = Callable[..., CommandResult]
BLACK = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def app() -> Any:
    """Qt's application; skips where it cannot be."""
    if reason := why_not():
        pytest.skip(reason)
    from slam.viewer.application import application

    return application()


@pytest.fixture
def window(app: Any) -> Iterator[Window]:
    """An empty one of files, 800 x 600, the map on black."""
    from slam.viewer.window import Window

    made = Window("test", None, 0.0)
    made.view.background = BLACK
    made.resize(900, 700)
    made.show()
    app.processEvents()
    yield made
    made.close()
    made.deleteLater()
    app.processEvents()


def picture(window: Window) -> np.ndarray:
    """What the map's framebuffer holds, [H, W, 3] uint8, in the screen's own pixels."""
    from PySide6.QtGui import QImage

    image = window.view.grabFramebuffer().convertToFormat(QImage.Format.Format_RGB888)
    data = np.frombuffer(image.constBits(), np.uint8)
    rows = data.reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


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
    assert np.isnan(window.distance())  # nobody asked for it
    trigger(window, "measure")
    click(np.array([3.0, 3.0]))  # nothing is there
    click(pixels[2])
    click(pixels[7])
    assert window.distance() == pytest.approx(np.linalg.norm(ends[0] - ends[1]), rel=1e-4)
    assert f"{window.distance():.4g}" in window.statusBar().currentMessage()
    trigger(window, "measure")
    assert np.isnan(window.distance())
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


# --- runs -----------------------------------------------------------------------------------------


def config_of(source: Path, out: Path) -> Config:
    return load_config(None, [f"source.path={source}", f"run.out={out}", "flow.long_side=200"])


def shown_run(config: Config, on_look: Callable[[Live], None]) -> RunResult:
    """A run with its window; `on_look` is called after each look at the run."""
    from slam.viewer.live import run_with_viewer

    def opened(live: Live) -> None:
        look = live.look

        def looked() -> None:
            look()
            on_look(live)

        live.timer.timeout.disconnect()
        live.timer.timeout.connect(looked)

    return run_with_viewer(config, lambda _: None, opened, aside=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a viewer, on `cut` beside it."""
    folder = tmp_path_factory.mktemp("alone")
    return run(config_of(cut_sample(folder / "cut", range(40)), folder / "out")).folder


def test_a_run_that_is_watched_to_its_end_finds_what_it_finds_alone(
    app: Any, alone: Path, tmp_path: Path
) -> None:
    words = []

    def look(live: Live) -> None:
        words.append(live.window.status.text())
        if live.thread.result is not None and "done" in words[-1]:
            live.window.close()

    result = shown_run(config_of(alone.parent / "cut", tmp_path / "watched"), look)
    assert result.exit_code == 0
    for name in ("trajectory.txt", "trajectory_causal.txt", "map.ply"):
        assert (alone / name).read_bytes() == (result.folder / name).read_bytes(), name
    assert any("tracked" in w and "frames/s" in w and "keyframes" in w for w in words), words


def test_closing_the_window_ends_the_run_which_is_saved(app: Any, tmp_path: Path) -> None:
    source, out = cut_sample(tmp_path / "cut", range(300)), tmp_path / "out"

    def look(live: Live) -> None:
        if live.watcher.latest is not None and live.watcher.latest.frames > 15:
            live.window.close()

    result = shown_run(config_of(source, out), look)
    assert result.exit_code == 0 and {p.name for p in out.iterdir()} == OUTPUTS
    assert 15 < result.report["processed"] < 300


def test_a_viewer_that_fails_leaves_the_run_alone(
    app: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slam.viewer.map_view import MapView

    source, out = cut_sample(tmp_path / "cut", range(40)), tmp_path / "out"
    paint, painted = MapView.paintGL, []

    def paint_twice(self: MapView) -> None:
        painted.append(1)
        if len(painted) > 2:
            raise RuntimeError("the driver\nis gone")
        paint(self)

    monkeypatch.setattr(MapView, "paintGL", paint_twice)
    result = shown_run(config_of(source, out), lambda live: live.window.view.update())
    assert result.exit_code == 0 and result.report["processed"] == 40
    assert {p.name for p in out.iterdir()} == OUTPUTS
    said = [r.getMessage() for r in caplog.records if "viewer failed" in r.getMessage()]
    assert said == [
        "the viewer failed (RuntimeError: the driver is gone); the run goes on without it"
    ]


def test_bad_input_closes_the_window_and_is_raised(app: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        shown_run(config_of(tmp_path / "nowhere", tmp_path / "out"), lambda _: None)


def test_ctrl_c_adjusts_saves_and_exits_with_130(app: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slam", "run", str(SAMPLE), "--viewer", "--realtime", "-v"]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--set", "flow.long_side=200"],
        stderr=subprocess.PIPE,
        bufsize=0,  # what is not read here is left to `communicate`
        cwd=PACKAGE_PARENT,
    )
    assert process.stderr is not None
    assert any(b"map started" in line for line in process.stderr), "it ended before it began"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert {p.name for p in out.iterdir()} == OUTPUTS


def test_a_run_is_shown_from_its_files(app: Any, alone: Path) -> None:
    from PySide6.QtCore import QTimer

    from slam.viewer.files import view

    words = []

    def opened(window: Window) -> None:
        words.append(window.status.text())
        QTimer.singleShot(0, window.close)

    view(alone, opened)
    assert words and "keyframes" in words[0]


def test_a_folder_that_is_no_run_is_refused_in_one_line(
    app: Any, tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slam.viewer.why_not", lambda: "")  # `app` has asked
    expect_one_line(run_cli("view", tmp_path), "keyframes.npz", str(tmp_path))


# --- speed ----------------------------------------------------------------------------------------


def big_scene(keyframes: int, points: int) -> Scene:
    """Noisy planes round the origin."""
    rng = np.random.default_rng(0)
    views = []
    for number in range(keyframes):
        vertices = np.empty(points // keyframes, VERTEX)
        depth = rng.uniform(1.5, 2.5, len(vertices))
        pixel = rng.uniform(0, 1, (len(vertices), 2)) * SIZE
        vertices["X"] = np.concatenate([pixel * depth[:, None], depth[:, None]], axis=1)
        vertices["rgb"] = rng.integers(0, 255, (len(vertices), 3))
        vertices["alpha"] = 100
        T_WC = pose(0, 0, 0, 0, 2 * np.pi * number / keyframes, 0)
        plane = np.ones((2, 2))
        views.append(KeyframeView(number, T_WC, vertices, 1.0, plane, plane, None))
    return replace(scene_of(1), keyframes=tuple(views), stride=1)


@pytest.mark.parametrize(
    "points", [100_000, 1_000_000, pytest.param(3_000_000, marks=pytest.mark.slow)]
)
def test_time_of_a_frame(window: Window, points: int, capsys: pytest.CaptureFixture[str]) -> None:
    window.show_scene(big_scene(100, points))
    window.controls.budget.setValue(50_000_000)
    outside = np.array([0.0, -4.0, -6.0])  # all of them are in view
    window.view.viewpoint = window.view.viewpoint.looking(outside, np.zeros(3))
    window.actions_of["see_through"].setChecked(False)
    picture(window)
    times = []
    for _ in range(5):
        window.view.viewpoint = window.view.viewpoint.turned(0.1, 0)
        start = time.perf_counter()
        picture(window)
        times.append(time.perf_counter() - start)
    with capsys.disabled():
        print(
            f"\n{window.view.drawn} of {points} points: {1e3 * min(times):.0f} ms a frame at best"
        )
    assert window.view.drawn > 0.5 * points
