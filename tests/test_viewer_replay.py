"""The window that goes through a recording frame by frame, under a real display."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from replay_maps import small_map, written
from saved_maps import CAMERA
from scipy.spatial.transform import Rotation
from sequences import cut_sample
from viewer_scenes import picture, small_config

from slam.run import run
from slam.sources import open_source
from slam.viewer.commands import COMMANDS
from slam.viewer.load import load
from slam.viewer.orbit import project

if TYPE_CHECKING:
    from slam.viewer.window import Window


pytestmark = pytest.mark.viewer


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 40 frames of the sample."""
    folder = tmp_path_factory.mktemp("replay")
    return run(small_config(cut_sample(folder / "cut", range(40)), folder / "out")).folder


# --- the window -----------------------------------------------------------------------------------


@pytest.fixture
def replaying(window: Window, tmp_path: Path) -> Window:
    """A window at the end of the small map's recording, whose images are nowhere."""
    loaded = load(written(small_map(), tmp_path))
    window.show_scene(loaded.scene)
    assert loaded.recording is not None
    window.show_recording(loaded.recording, loaded.images)
    return window


def alone(window: Window, layer: str) -> None:
    """Shows one layer only."""
    for name, box in window.controls.layers.items():
        box.setChecked(name == layer)


def trigger(window: Window, name: str) -> None:
    window.actions_of[name].trigger()


def test_at_a_frame_exactly_the_keyframes_until_then_are_drawn(replaying: Window) -> None:
    alone(replaying, "points")
    trigger(replaying, "next_coloring"), trigger(replaying, "next_coloring")
    trigger(replaying, "next_coloring")  # a colour for each keyframe
    replaying.actions_of["see_through"].setChecked(False)
    scene = replaying.scene
    assert scene is not None
    drawn, uploads = [], []
    for place in (11, 0, 2, 3, 5, 6, 9):
        replaying.timeline.go_to(place)
        picture(replaying)
        drawn.append(replaying.view.drawn)
        uploads.append(replaying.view.uploads())
    sizes = np.cumsum([len(k.vertices) for k in scene.keyframes])
    assert drawn == [sizes[n - 1] for n in (4, 1, 1, 2, 2, 3, 4)]
    assert set(uploads) == {4}
    whole = picture(replaying)
    replaying.timeline.go_to(8)
    without_last = picture(replaying)
    assert (without_last != whole).any()
    replaying.show_scene(replace(scene, keyframes=scene.keyframes[:3]))
    np.testing.assert_array_equal(picture(replaying), without_last)


@pytest.mark.parametrize("layer", ["path", "keyframes", "edges"])
def test_lines_grow_with_the_frames(replaying: Window, layer: str) -> None:
    alone(replaying, layer)

    def filled(place: int) -> int:
        replaying.timeline.go_to(place)
        return int((picture(replaying) > 0).any(-1).sum())

    pixels = [filled(place) for place in (0, 3, 6, 9)]
    assert all(a < b for a, b in itertools.pairwise(pixels)), pixels
    assert filled(11) == pixels[-1] or layer == "path"
    assert (pixels[0] == 0) == (layer != "keyframes")


def test_the_frustum_is_where_the_frames_pose_puts_it(replaying: Window) -> None:
    alone(replaying, "camera")
    saved, view = small_map(), replaying.view
    for place in (4, 8, 10):
        replaying.timeline.go_to(place)
        record = saved.records[place]
        T_WK = saved.keyframes[record.keyframe].T_WC.numpy()
        R_WK, R_kf = Rotation.from_quat(T_WK[3:]), Rotation.from_quat(record.T_kf.numpy()[3:])
        centre = R_WK.apply(record.T_kf.numpy()[:3]) + T_WK[:3]
        fx, fy, cx, cy = CAMERA.intrinsics
        rays = [[(u - cx) / fx, (v - cy) / fy, 1] for u in (-0.5, 95.5) for v in (-0.5, 71.5)]
        directions = (R_WK * R_kf).apply(rays)
        scene = replaying.scene
        assert scene is not None
        corners = centre + 1.6 * 0.07 * scene.depth * directions
        seen = project(view.matrix(), np.vstack([centre, corners]), view.width(), view.height())
        rows, columns = np.nonzero((picture(replaying) > 0).any(-1))
        ratio = view.devicePixelRatioF()
        drawn = np.stack([columns + 0.5, rows + 0.5], axis=1)
        inside = (seen[:, :2] > 2).all(1) & (seen[:, 0] < view.width() - 2)
        assert inside.sum() >= 3
        for spot in seen[inside, :2] * ratio:
            assert np.linalg.norm(drawn - spot, axis=1).min() < 1.0 * ratio, place
    replaying.timeline.go_to(1)  # has no pose
    assert not (picture(replaying) > 0).any()


def test_play_goes_on_at_the_recordings_pace_and_stops_at_its_end(replaying: Window) -> None:
    timeline, now = replaying.timeline, [100.0]
    timeline.clock = lambda: now[0]
    places = []
    timeline.moved.connect(places.append)
    trigger(replaying, "play")  # at the end: from the beginning
    assert timeline.playing and timeline.place == 0
    for seconds, place in ((0.02, 0), (0.034, 1), (0.21, 6)):
        now[0] = 100 + seconds
        timeline.tick()
        assert timeline.place == place
    trigger(replaying, "faster")
    now[0] += 1.1 / 60  # half of 1.1 frames' time, at twice the pace
    timeline.tick()
    assert timeline.place == 7
    for _ in range(3):
        trigger(replaying, "slower")
    now[0] += 2.2 / 30
    timeline.tick()
    assert timeline.place == 7
    now[0] += 2.2 / 30
    timeline.tick()
    assert timeline.place == 8
    now[0] += 100
    timeline.tick()
    assert timeline.place == 11 and not timeline.playing
    assert places == sorted(places) and replaying.view.keyframes == 4


def test_play_advances_by_itself(replaying: Window, app: Any) -> None:
    trigger(replaying, "play")
    end = time.monotonic() + 20
    while replaying.timeline.playing and time.monotonic() < end:
        app.processEvents()
    assert replaying.timeline.place == 11 and not replaying.timeline.playing


def test_every_control_of_a_replay_once(replaying: Window) -> None:
    timeline = replaying.timeline
    trigger(replaying, "help")
    shown = replaying.help_overlay.text()
    for command in COMMANDS:
        if command.replay:
            assert command.help in shown and f"<b>{command.keys}</b>" in shown
            assert replaying.actions_of[command.name].isEnabled()
    done = {}
    for name, place in (("first", 0), ("forward", 1), ("forward", 2), ("back", 1), ("last", 11)):
        trigger(replaying, name)
        assert timeline.place == place
        done[name] = True
    for name, step in (("faster", 1), ("slower", -1)):
        before = timeline.speed.currentIndex()
        trigger(replaying, name)
        assert timeline.speed.currentIndex() == before + step
        done[name] = True
    trigger(replaying, "play")
    assert timeline.playing
    trigger(replaying, "forward")
    assert not timeline.playing  # a step stops it
    done["play"] = True
    assert set(done) == {command.name for command in COMMANDS if command.replay}
    timeline.slider.setValue(4)
    assert timeline.text.text().startswith("weak · frame 5 of 12 · 0.13 of 0.37 s")
    timeline.slider.setValue(7)
    assert timeline.text.text().startswith("relocalised")
    replaying.controls.keyframe.setValue(3)
    assert timeline.place == 9 and "4 of 4" in replaying.controls.keyframe_text.text()
    timeline.slider.setValue(5)
    assert replaying.controls.keyframe.value() == 1
    trigger(replaying, "follow")
    eye = replaying.view.viewpoint.eye
    trigger(replaying, "last")
    assert np.linalg.norm(replaying.view.viewpoint.eye - eye) > 0.1


def test_the_keys_reach_the_timeline(replaying: Window, app: Any) -> None:
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    replaying.activateWindow()
    QTest.qWaitForWindowActive(replaying, 2000)
    if not replaying.isActiveWindow():
        pytest.skip("no window manager makes the window the active one")
    for key, place in ((Qt.Key.Key_Home, 0), (Qt.Key.Key_Right, 1), (Qt.Key.Key_Left, 0)):
        QTest.keyClick(replaying.view, key)
        assert replaying.timeline.place == place
    QTest.keyClick(replaying.view, Qt.Key.Key_Space)
    assert replaying.timeline.playing


def wait_for(app: Any, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not done() and time.monotonic() < end:
        app.processEvents()
    assert done()


def test_where_the_images_are_gone_the_pane_says_so(replaying: Window, app: Any) -> None:
    pane = replaying.panes.pictures["image"]
    replaying.timeline.go_to(5)
    wait_for(app, lambda: "no such file" in pane.words)
    assert pane.image is None
    replaying.timeline.go_to(6)  # a keyframe, whose image is in the map
    wait_for(app, lambda: pane.image is not None)
    assert pane.words == ""


def test_a_runs_images_are_shown_as_it_is_gone_through(
    window: Window, app: Any, small_run: Path
) -> None:
    loaded = load(small_run)
    window.show_scene(loaded.scene)
    assert loaded.recording is not None
    window.show_recording(loaded.recording, loaded.images)
    pane = window.panes.pictures["image"]
    wanted = {n: i.rgb for n, i in zip((11, 20), source_images(small_run, 11, 20), strict=True)}
    for place, rgb in wanted.items():
        window.timeline.go_to(place)

        def shown(rgb: torch.Tensor = rgb) -> bool:
            image = pane.image
            if image is None or (image.height(), image.width()) != rgb.shape[:2]:
                return False
            color = image.pixelColor(31, 17)
            return [color.red(), color.green(), color.blue()] == rgb[17, 31].tolist()

        wait_for(app, shown)


def source_images(folder: Path, *places: int) -> list[Any]:
    return list(open_source(folder.parent / "cut").images(places))


def test_a_cloud_has_no_timeline_and_an_export_has_what_is_shown(
    replaying: Window, small_run: Path, tmp_path: Path
) -> None:
    from slam.export import read_ply

    assert load(small_run / "map.ply").recording is None
    assert replaying.timeline.isVisible()
    replaying.timeline.go_to(2)
    replaying.do_export(tmp_path / "map.ply")
    scene = replaying.scene
    assert scene is not None
    assert len(read_ply(tmp_path / "map.ply").points) == len(scene.keyframes[0].vertices)


def test_without_a_recording_there_is_nothing_to_play(window: Window, small_run: Path) -> None:
    window.show_scene(load(small_run / "map.ply").scene)
    assert not window.timeline.isVisible()
    assert not any(window.actions_of[c.name].isEnabled() for c in COMMANDS if c.replay)
