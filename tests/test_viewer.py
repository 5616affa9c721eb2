"""The viewer's parts that need no window: points, viewpoint, detail, scenes, pictures, watching."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PACKAGE_PARENT, CommandResult, expect_one_line
from scipy.spatial.transform import Rotation
from sequences import OUTPUTS, cut_sample
from viewer_scenes import INTRINSICS, SIZE, keyframe, pose, scene_of, small_config

from slam.frame import Image, InverseDepth, Step
from slam.graph import Graph
from slam.outputs import RunResult
from slam.predictors import Grid
from slam.run import run
from slam.viewer import why_not
from slam.viewer.detail import FEWEST, shares
from slam.viewer.load import load_scene
from slam.viewer.orbit import Orbit, project
from slam.viewer.pictures import UNKNOWN, confidence_picture, depth_picture, flow_picture
from slam.viewer.points import VERTEX, growth, point_vertices, vertex_matrix
from slam.viewer.scene import SceneBuilder, edge_pairs
from slam.viewer.watcher import LiveState, Watcher

Command = Callable[..., CommandResult]


# --- points ---------------------------------------------------------------------------------------


def test_vertices_come_to_lie_where_pixels_and_depths_say() -> None:
    rng = np.random.default_rng(1)
    pixel, depth = rng.uniform(0, 400, (50, 2)), rng.uniform(0.5, 4, 50)
    T_WC, scale = pose(0.3, -0.2, 0.5, 0.2, -0.4, 0.1), 1.7
    rgb = rng.integers(0, 255, (50, 3), np.uint8)
    vertices = point_vertices(pixel, 1 / depth, np.full(50, 4e4), rgb)
    M = vertex_matrix(T_WC, INTRINSICS, scale)
    world = vertices["X"] @ M[:3, :3].T + M[:3, 3]
    fx, fy, cx, cy = INTRINSICS
    X_C = np.stack([(pixel[:, 0] - cx) / fx, (pixel[:, 1] - cy) / fy, np.ones(50)], 1)
    true = Rotation.from_quat(T_WC[3:]).apply(scale * depth[:, None] * X_C) + T_WC[:3]
    order = [int(np.flatnonzero((rgb == row).all(1))[0]) for row in vertices["rgb"]]
    np.testing.assert_allclose(world, true[order], atol=1e-5)


def test_only_known_points_are_kept_with_their_confidence() -> None:
    inverse = np.array([0.5, 0.5, 0.5, -0.1, 1e-9, 0.5])
    information = np.array([1600.0, 0.0, 1e9, 100.0, 1e20, 400.0])
    pixel, rgb = np.zeros((6, 2)), np.arange(18, dtype=np.uint8).reshape(6, 3)
    vertices = point_vertices(pixel, inverse, information, rgb)
    assert {tuple(v["rgb"]): int(v["alpha"]) for v in vertices} == {
        (0, 1, 2): 20,
        (6, 7, 8): 255,
        (15, 16, 17): 10,
    }


def test_a_first_part_of_the_points_is_a_fair_sample() -> None:
    u, v = np.meshgrid(np.arange(100.0), np.arange(100.0))
    pixel = np.stack([u.ravel(), v.ravel()], 1)
    rgb = np.zeros((10_000, 3), np.uint8)
    vertices = point_vertices(pixel, np.ones(10_000), np.full(10_000, 1e4), rgb)
    quarters = (vertices["X"][:1000, :2] // 50).astype(int) @ [1, 2]
    assert (abs(np.bincount(quarters, minlength=4) - 250) < 60).all()


@pytest.mark.parametrize(
    ("value", "information", "wanted"), [(0.5, 4.0, 2.0), (1.0, 1.0, 1.0), (0.5, 1.0, None)]
)
def test_growth_is_told_from_other_changes(
    value: float, information: float, wanted: float | None
) -> None:
    depth = InverseDepth(torch.rand(100) + 0.5, torch.rand(100) * 1e3)
    after = InverseDepth(depth.value * value, depth.information * information)
    assert growth(depth, after) == (None if wanted is None else pytest.approx(wanted))
    bent = InverseDepth(after.value * torch.linspace(1, 1.01, 100), after.information)
    assert growth(depth, bent) is None


# --- viewpoint ------------------------------------------------------------------------------------


def test_the_viewpoint_projects_as_a_pinhole_does() -> None:
    rng = np.random.default_rng(2)
    up = np.array([0.1, -1.0, 0.2]) / np.linalg.norm([0.1, -1.0, 0.2])
    eye, target = np.array([1.0, -2.0, -3.0]), np.array([0.2, 0.1, 1.0])
    view = Orbit(up, np.zeros(3), 1.0, 0.0, 0.0).looking(eye, target)
    points = target + rng.uniform(-1, 1, (100, 3))
    seen = project(view.matrix(800, 600), points, 800, 600)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
    x, y, z = ((points - eye) @ axis for axis in (right, np.cross(forward, right), forward))
    focal = 400 / np.tan(np.radians(30))
    np.testing.assert_allclose(seen[:, 0], 400 + focal * x / z, atol=1e-6)
    np.testing.assert_allclose(seen[:, 1], 300 + focal * y / z, atol=1e-6)
    np.testing.assert_allclose(seen[:, 2], z, atol=1e-6)
    np.testing.assert_allclose(view.eye, eye, atol=1e-9)


def test_moving_the_viewpoint() -> None:
    view = Orbit(np.array([0.0, 0.0, 1.0]), np.zeros(3), 5.0, 0.3, 0.2)
    assert np.linalg.norm(view.turned(1.0, 0.5).eye) == pytest.approx(5)
    assert view.turned(0, 9).elevation < np.pi / 2
    assert view.zoomed(0.5).distance == 2.5
    spot = view.target + 0.0
    before = project(view.matrix(800, 600), spot[None], 800, 600)[0]
    after = project(view.panned(30, -20, 800).matrix(800, 600), spot[None], 800, 600)[0]
    np.testing.assert_allclose(after[:2] - before[:2], [30, 20], atol=1e-6)
    halfway = view.towards(view.zoomed(3), 0.5)
    assert halfway.distance == pytest.approx(10)


def test_a_follower_stands_behind_the_camera_and_looks_where_it_looks() -> None:
    T_WC = np.eye(4)
    view = Orbit(np.array([0.0, -1.0, 0.0]), np.zeros(3), 1.0, 0.0, 0.0).behind(T_WC, 2.0)
    assert view.eye[2] < 0 and view.eye[1] < 0  # behind, and above: y is down
    np.testing.assert_allclose(view.target, [0, 0, 2])


def test_detail_goes_to_what_is_seen_and_near_and_keeps_to_the_budget() -> None:
    view = Orbit(np.array([0.0, -1.0, 0.0]), np.zeros(3), 1.0, 0.0, 0.0)
    matrix = view.looking(np.zeros(3), np.array([0.0, 0, 1])).matrix(800, 600)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    centres = np.array([[0, 0, 5.0], [0, 0, 900.0], [0, 0, -5.0], [60, 0, 5.0], [0, 0, 0]])
    corners = centres[:, None] + 0.5 * signs
    counts = np.full(5, 10_000)
    near, far, behind, aside, around = shares(counts, corners, matrix, 800, 600, 10**9)
    assert near == around == 10_000 and behind == aside == 0
    assert far == FEWEST
    assert shares(counts, corners, matrix, 800, 600, 6000).sum() <= 6000


# --- scenes ---------------------------------------------------------------------------------------


@pytest.fixture
def graph() -> Graph:
    made = Graph(INTRINSICS)
    for number in range(3):
        made.add_keyframe(keyframe(number, pose(0.1 * number, 0, 0, 0, 0, 0)))
    return made


def test_what_does_not_change_keeps_its_vertices(graph: Graph) -> None:
    builder = SceneBuilder(Grid(*SIZE, 4))
    before = builder.build(graph.snapshot())
    moved = torch.from_numpy(pose(0, 1, 2, 0.1, 0.2, 0.3))
    graph.adopt({1: moved}, {}, scales={2: 1.5})
    depth = graph.keyframe(0).depth
    graph.set_depth(0, replace(depth, value=depth.value * torch.linspace(1, 1.5, len(depth.value))))
    after = builder.build(graph.snapshot())
    same = [
        a.vertices is b.vertices for a, b in zip(after.keyframes, before.keyframes, strict=True)
    ]
    assert same == [False, True, True]
    np.testing.assert_array_equal(after.keyframes[1].T_WC, moved)
    assert after.keyframes[2].scale == pytest.approx(1.5)
    cloud = after.cloud(0)[0]
    fresh = SceneBuilder(Grid(*SIZE, 4)).build(graph.snapshot()).cloud(0)[0]
    np.testing.assert_allclose(cloud, fresh, atol=1e-4)


def test_edges_are_told_once_and_loops_by_their_span() -> None:
    scene = replace(scene_of(12), edges=edge_pairs([(1, 0), (0, 1), (11, 1), (2, 3)]))
    assert scene.edges.tolist() == [[0, 1], [2, 3], [1, 11]]
    assert scene.loops.tolist() == [False, False, True]


def test_a_clouds_confidence_and_size_are_chosen() -> None:
    scene = scene_of(2)
    points, colors, trust = scene.cloud(0)
    assert len(points) == len(colors) == len(trust) == scene.points
    least = float(np.median(trust))
    assert len(scene.cloud(least)[0]) == (trust >= least).sum()
    assert len(scene.cloud(0, most=100)[0]) == pytest.approx(100, abs=2)


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_show_what_is_near_sure_and_moving() -> None:
    inverse = np.tile(np.linspace(0.2, 1, 20), (10, 1))
    trust = np.full((10, 20), 30.0)
    trust[:, :5] = 0
    depth = depth_picture(inverse, trust).astype(int)
    assert (depth[:, :5] == UNKNOWN).all() and (depth[0, -1, 0] - depth[0, -1, 2]) > 50
    trust[:, 15:] = 200
    sure = confidence_picture(trust).astype(int).sum(-1)
    assert sure[0, 19] > sure[0, 10]
    grid = Grid(64, 48, 4)
    packed = torch.zeros(48, 3, dtype=torch.int16)
    packed[:, 0], packed[:, 2] = 128 * 4, 128  # 4 px to the right
    packed[0, 2] = 0
    flow = flow_picture(grid, packed)
    assert flow.shape == (6, 8, 3) and (flow[0, 0] == UNKNOWN).all()
    assert flow[3, 3].tolist() == [255, 0, 0]


# --- watching a run -------------------------------------------------------------------------------


class Guided(Watcher):
    """Counts images, and lets a test wait for them, and for a save."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = threading.Condition()
        self.count = 0
        self.has_saved = threading.Event()

    def posed(self, image: Image, step: Step, latency: float, dropped: int) -> None:
        super().posed(image, step, latency, dropped)
        with self.counted:
            self.count += 1
            self.counted.notify_all()

    def saved(self, complaint: str) -> None:
        super().saved(complaint)
        self.has_saved.set()

    def wait_for(self, count: int) -> LiveState:
        with self.counted:
            assert self.counted.wait_for(lambda: self.count >= count, 60)
        assert self.latest is not None
        return self.latest


class GuidedRun:
    """A run of 60 images in a thread, paused after the first one."""

    def __init__(self, folder: Path) -> None:
        self.watcher, self.out = Guided(), folder / "out"
        self.results: list[RunResult] = []
        self.watcher.pause(True)
        self.watcher.step()
        config = small_config(cut_sample(folder / "cut", range(60)), self.out)
        self.thread = threading.Thread(
            target=lambda: self.results.append(run(config, self.watcher))
        )
        self.thread.start()
        self.watcher.wait_for(1)

    def end(self) -> RunResult:
        """Stops it."""
        self.watcher.stop()
        self.thread.join(60)
        return self.results[0]


@pytest.fixture
def guided(tmp_path: Path) -> Iterator[GuidedRun]:
    made = GuidedRun(tmp_path)
    yield made
    made.end()


def test_a_paused_run_takes_one_image_a_step(guided: GuidedRun) -> None:
    watcher = guided.watcher
    for count in (2, 3):
        watcher.step()
        assert watcher.wait_for(count).frames == count
    time.sleep(0.2)  # in which it would go on, if it did not wait
    assert watcher.count == 3
    watcher.pause(False)
    state = watcher.wait_for(6)
    assert state.latency > 0 and state.dropped == 0 and state.focal == pytest.approx(525, rel=0.01)


def test_saving_now_writes_everything_and_the_run_goes_on(guided: GuidedRun) -> None:
    watcher = guided.watcher
    watcher.pause(False)
    watcher.wait_for(30)
    watcher.pause(True)
    seen = watcher.count
    watcher.save()
    assert watcher.has_saved.wait(60)
    assert watcher.take_complaints() == [""]
    assert {p.name for p in guided.out.iterdir()} == {*OUTPUTS, "session.journal"}
    assert len(load_scene(guided.out).path) > seen - 10  # the first ones are posed at the end
    watcher.pause(False)
    watcher.wait_for(seen + 3)


def test_no_complaint_of_a_save_is_lost_and_each_is_told_once() -> None:
    watcher = Watcher()
    watcher.saved("no room")
    watcher.saved("")
    assert watcher.take_complaints() == ["no room", ""] and watcher.take_complaints() == []


def test_stopping_saves_and_is_no_interruption(guided: GuidedRun) -> None:
    result = guided.end()
    assert result.exit_code == 0 and {p.name for p in guided.out.iterdir()} == OUTPUTS
    assert guided.watcher.count == 1 and guided.watcher.is_adjusting


def test_an_interruption_before_the_run_began_is_not_forgotten(tmp_path: Path) -> None:
    watcher = Watcher()
    watcher.interrupt()
    source = cut_sample(tmp_path / "cut", range(5))
    result = run(small_config(source, tmp_path / "out"), watcher)
    assert result.exit_code == 130 and watcher.latest is None


# --- without Qt, without a display ----------------------------------------------------------------


def test_nothing_imports_qt_unless_the_viewer_is_asked_for() -> None:
    code = (
        "import sys, slam.cli, slam.run, slam.viewer, slam.viewer.load, slam.viewer.watcher\n"
        "found = {'PySide6', 'pyqtgraph', 'OpenGL'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE_PARENT)


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_without_a_display_one_line_says_so_and_the_run_goes_on(
    no_display: None, tmp_path: Path, run_cli: Command
) -> None:
    source, out = cut_sample(tmp_path / "cut", range(20)), tmp_path / "out"
    result = run_cli("run", source, "--viewer", "--out", out, "--set", "flow.long_side=200")
    assert result.code == 0 and {p.name for p in out.iterdir()} == OUTPUTS
    lines = [line for line in result.err.splitlines() if "viewer" in line]
    assert len(lines) == 1 and "DISPLAY" in lines[0] and "without it" in lines[0]
    expect_one_line(run_cli("view", out), "DISPLAY")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DISPLAY is X's")
def test_a_display_that_does_not_answer_and_missing_packages_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PySide6")
    pytest.importorskip("pyqtgraph")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":7654")
    assert "\n" not in why_not() and "7654" in why_not()
    (tmp_path / "PySide6.py").write_text("raise ImportError('libGL.so.1: no such file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reason = why_not()
    assert "\n" not in reason and "pip install" in reason and "PySide6" in reason


def test_points_of_a_vertex_take_16_bytes() -> None:
    assert VERTEX.itemsize == 16
