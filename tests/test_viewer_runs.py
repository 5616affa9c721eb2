"""Runs that are watched: to their end, closed early, with a viewer that fails; and its speed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import PACKAGE_PARENT, CommandResult, expect_one_line
from sequences import OUTPUTS, SAMPLE, cut_sample
from viewer_scenes import SIZE, picture, pose, scene_of, small_config

from slam.config import Config
from slam.outputs import RunResult
from slam.run import run
from slam.viewer.points import VERTEX
from slam.viewer.scene import KeyframeView, Scene

if TYPE_CHECKING:
    from slam.viewer.live import Live
    from slam.viewer.window import Window

pytestmark = pytest.mark.viewer
Command = Callable[..., CommandResult]


# --- runs -----------------------------------------------------------------------------------------


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
    return run(small_config(cut_sample(folder / "cut", range(40)), folder / "out")).folder


def test_a_run_that_is_watched_to_its_end_finds_what_it_finds_alone(
    app: Any, alone: Path, tmp_path: Path
) -> None:
    words = []

    def look(live: Live) -> None:
        words.append(live.window.status.text())
        if live.thread.result is not None and "done" in words[-1]:
            live.window.close()

    result = shown_run(small_config(alone.parent / "cut", tmp_path / "watched"), look)
    assert result.exit_code == 0
    for name in ("trajectory.txt", "trajectory_causal.txt", "map.ply"):
        assert (alone / name).read_bytes() == (result.folder / name).read_bytes(), name
    assert any("tracked" in w and "frames/s" in w and "keyframes" in w for w in words), words


def test_closing_the_window_ends_the_run_which_is_saved(app: Any, tmp_path: Path) -> None:
    source, out = cut_sample(tmp_path / "cut", range(300)), tmp_path / "out"

    def look(live: Live) -> None:
        if live.watcher.latest is not None and live.watcher.latest.frames > 15:
            live.window.close()

    result = shown_run(small_config(source, out), look)
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
    result = shown_run(small_config(source, out), lambda live: live.window.view.update())
    assert result.exit_code == 0 and result.report["processed"] == 40
    assert {p.name for p in out.iterdir()} == OUTPUTS
    said = [r.getMessage() for r in caplog.records if "viewer failed" in r.getMessage()]
    assert said == [
        "the viewer failed (RuntimeError: the driver is gone); the run goes on without it"
    ]


def test_bad_input_closes_the_window_and_is_raised(app: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        shown_run(small_config(tmp_path / "nowhere", tmp_path / "out"), lambda _: None)


@pytest.mark.slow
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
