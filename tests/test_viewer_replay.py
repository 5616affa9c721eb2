"""Replays: maps and runs as recordings, and the window that goes through one frame by frame."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from saved_maps import CAMERA, around, made_map, sphere_depth
from scipy.spatial.transform import Rotation
from sequences import cut_sample
from viewer_scenes import picture, small_config

from slam.frame import PER_SOURCE, TrackState
from slam.run import run
from slam.saved_map import SavedMap, save_map
from slam.sources import open_source
from slam.viewer.commands import COMMANDS
from slam.viewer.frame_images import FrameImages, MissingImage
from slam.viewer.lines import path_lines
from slam.viewer.load import load
from slam.viewer.orbit import project
from slam.viewer.recording import Recording, playing_seconds

if TYPE_CHECKING:
    from slam.viewer.window import Window

Command = Callable[..., CommandResult]
POSES = around(4)


def small_map() -> SavedMap:
    """Four keyframes round a sphere, twelve frames 1/30 s apart, the second without a pose."""
    saved = made_map(POSES, sphere_depth).saved
    states = [TrackState.TRACKED] * len(saved.records)
    states[4], states[7] = TrackState.WEAK, TrackState.RELOCALISED
    records = [replace(r, state=s) for r, s in zip(saved.records, states, strict=True)]
    return replace(saved, records=tuple(records))


def merged_map() -> SavedMap:
    """The same with its second half from another source, whose clock began anew."""

    def moved(index: int) -> int:
        return index if index < 6 else index - 6 + PER_SOURCE

    saved = small_map()
    records = [
        replace(r, index=moved(r.index), seconds=r.seconds if r.index < 6 else r.seconds - 90)
        for r in saved.records
    ]
    keyframes = [replace(k, index=moved(k.index)) for k in saved.keyframes]
    return replace(saved, records=tuple(records), keyframes=tuple(keyframes[::-1]))


def written(saved: SavedMap, folder: Path) -> Path:
    save_map(folder / "map.slam", saved)
    return folder / "map.slam"


def recording_of(path: Path) -> Recording:
    found = load(path).recording
    assert found is not None
    return found


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 40 frames of the sample."""
    folder = tmp_path_factory.mktemp("replay")
    return run(small_config(cut_sample(folder / "cut", range(40)), folder / "out")).folder


@pytest.fixture
def older_run(small_run: Path, tmp_path: Path) -> Path:
    """The same without its map.slam."""
    for file in small_run.iterdir():
        if file.name != "map.slam":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- recordings -----------------------------------------------------------------------------------


def test_a_map_and_an_older_run_show_the_same_within_their_quantisation(
    small_run: Path, older_run: Path
) -> None:
    map_view, run_view = load(small_run), load(older_run)
    assert load(small_run / "map.slam").scene.points == map_view.scene.points
    for a, b in zip(map_view.scene.keyframes, run_view.scene.keyframes, strict=True):
        assert a.index == b.index
        np.testing.assert_allclose(a.T_WC, b.T_WC, atol=1e-9)
        known = b.confidence > 0
        np.testing.assert_array_equal(a.confidence > 0, known)
        np.testing.assert_allclose(a.inverse_depth[known], b.inverse_depth[known], rtol=1e-3)
        np.testing.assert_allclose(a.confidence[known], b.confidence[known], rtol=2e-3)
        assert abs(a.rgb.astype(int) - b.rgb).mean() < 4  # JPEG
        np.testing.assert_allclose(a.vertices["X"], b.vertices["X"], rtol=1e-3)
    np.testing.assert_array_equal(map_view.scene.edges, run_view.scene.edges)
    np.testing.assert_allclose(map_view.scene.path, run_view.scene.path, atol=1e-6)
    one, other = map_view.recording, run_view.recording
    assert one is not None and other is not None and one.states == other.states
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_array_equal(one.made, other.made)
    np.testing.assert_allclose(one.seconds, other.seconds, atol=1e-5)
    np.testing.assert_allclose(one.T_WC, other.T_WC, atol=1e-6)


def test_keyframes_are_there_from_their_frame_on(tmp_path: Path) -> None:
    recording = recording_of(written(small_map(), tmp_path))
    assert recording.made.tolist() == [0, 3, 6, 9]
    assert [recording.keyframes_until(n) for n in (0, 2, 3, 8, 11)] == [1, 1, 2, 3, 4]
    assert [recording.posed_until(n) for n in (0, 1, 2, 11)] == [1, 1, 2, 11]
    assert [recording.shown_keyframe(n) for n in (0, 1, 3, 5)] == [0, 0, 1, 1]
    steps = np.arange(12) / 30
    np.testing.assert_allclose(recording.seconds, steps, atol=1e-9)
    assert [recording.place_at(s) for s in (-1.0, 0.0, 0.11, 9.0)] == [0, 0, 3, 11]


def test_a_merged_map_is_replayed_source_by_source(tmp_path: Path) -> None:
    loaded, plain = load(written(merged_map(), tmp_path)), small_map()
    recording = loaded.recording
    assert recording is not None
    np.testing.assert_array_equal(recording.index // PER_SOURCE, [0] * 6 + [1] * 6)
    np.testing.assert_allclose(recording.seconds, np.arange(12) / 30, atol=1e-9)
    assert [k.index % PER_SOURCE for k in loaded.scene.keyframes] == [0, 3, 0, 3]
    assert (recording.keyframe[6:] == 3 - plain_numbers(plain)[6:]).all()
    alpha = path_lines(loaded.scene, (1, 2, 3), (4, 5, 6))["alpha"].reshape(-1, 2)
    assert np.flatnonzero(alpha[:, 0] == 0).tolist() == [4]  # of 11 frames with poses, 5 in one


def plain_numbers(saved: SavedMap) -> np.ndarray:
    return np.array([r.keyframe for r in saved.records])


def test_time_goes_on_where_a_sources_clock_does_not() -> None:
    index = np.array([0, 1, 2, PER_SOURCE, PER_SOURCE + 1])
    seconds = playing_seconds(index, np.array([5.0, 5.5, 6.0, 1.0, 1.5]))
    np.testing.assert_allclose(seconds, [0, 0.5, 1.0, 1.5, 2.0])
    assert playing_seconds(index[:0], np.empty(0)).tolist() == []


def test_a_damaged_map_is_refused_in_one_line(
    tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slam.viewer.why_not", lambda: "")  # nothing is opened
    path = written(small_map(), tmp_path)
    data = bytearray(path.read_bytes())
    data[-200] ^= 255
    path.write_bytes(bytes(data))
    pytest.importorskip("PySide6")
    for name in (path, tmp_path):
        expect_one_line(run_cli("view", name), "map.slam", "damaged")


# --- images ---------------------------------------------------------------------------------------


def test_images_of_frames_come_from_the_source_if_it_is_the_right_one(small_run: Path) -> None:
    loaded = load(small_run)
    recording, images = loaded.recording, loaded.images
    assert recording is not None and images is not None
    source = open_source(small_run.parent / "cut")
    wanted = [image.rgb.numpy() for image in source.images([7, 3])]
    for place, rgb in zip((7, 3), wanted, strict=True):
        np.testing.assert_array_equal(images.read(place), rgb)

    def reversed_images() -> Any:
        return open_source(cut_sample(small_run.parent / "other", range(299, 259, -1)))

    other = FrameImages(recording, loaded.scene.keyframes, reversed_images)
    for _ in range(2):
        with pytest.raises(MissingImage, match="not the images of the run"):
            other.read(3)


def test_images_of_a_merged_map_are_told_apart_by_what_they_show(small_run: Path) -> None:
    loaded = load(small_run)
    recording, scene = loaded.recording, loaded.scene
    assert recording is not None
    doubled = replace(
        recording,
        index=np.concatenate([recording.index, recording.index + PER_SOURCE]),
        **{
            name: np.concatenate([getattr(recording, name)] * 2)
            for name in ("time", "seconds", "T_WC", "keyframe")
        },
        states=recording.states * 2,
        made=np.concatenate([recording.made, recording.made + len(recording)]),
    )
    upside_down = [replace(k, rgb=k.rgb[::-1]) for k in scene.keyframes if k.rgb is not None]
    images = FrameImages(
        doubled,
        [*scene.keyframes, *upside_down],
        lambda: open_source(small_run.parent / "cut"),
    )
    assert images.read(5).shape[2] == 3
    with pytest.raises(MissingImage, match="another source"):
        images.read(45)


def test_a_video_is_read_forwards_and_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for n in range(20):
        film.write(np.full((48, 64, 3), 12 * n, np.uint8))
    film.release()
    source = open_source(path)
    recording = Recording(
        index=source.indices,
        time=source.times,
        seconds=source.seconds,
        states=(TrackState.TRACKED,) * 20,
        T_WC=np.full((20, 7), np.nan),
        keyframe=np.full(20, -1),
        made=np.empty(0, np.int64),
    )
    opened: list[int] = []
    images = FrameImages(recording, (), lambda: opened.append(1) or open_source(path))
    assert not opened  # before one is wanted
    for place in (3, 4, 10, 10, 2, 19):
        assert abs(images.read(place).mean() - 12 * place) < 3, place
    assert opened == [1]
    images.close()


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


@pytest.mark.viewer
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


@pytest.mark.viewer
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


def test_the_lines_until_a_frame_are_those_of_a_map_that_ends_there(tmp_path: Path) -> None:
    from slam.viewer.lines import drawn_until, edge_lines, keyframe_lines

    loaded = load(written(small_map(), tmp_path))
    scene, recording = loaded.scene, loaded.recording
    assert recording is not None
    for place in range(12):
        keyframes, frames = recording.keyframes_until(place), recording.posed_until(place)
        counts = drawn_until(scene, keyframes, frames)
        edges = scene.edges[(scene.edges < keyframes).all(axis=1)]
        ended = replace(
            scene,
            keyframes=scene.keyframes[:keyframes],
            edges=edges,
            path=scene.path[:frames],
            solved=scene.solved[:frames],
            source=scene.source[:frames],
        )
        color = (1, 2, 3)
        for layer, whole, part in (
            ("path", path_lines(scene, color, color), path_lines(ended, color, color)),
            *(
                (
                    "loops" if loops else "edges",
                    *(edge_lines(of, loops=loops, color=color, alpha=9) for of in (scene, ended)),
                )
                for loops in (False, True)
            ),
        ):
            np.testing.assert_array_equal(whole[: counts[layer]], part)
        assert counts["keyframes"] == len(keyframe_lines(ended, color))


@pytest.mark.viewer
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


@pytest.mark.viewer
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


@pytest.mark.viewer
def test_play_advances_by_itself(replaying: Window, app: Any) -> None:
    trigger(replaying, "play")
    end = time.monotonic() + 20
    while replaying.timeline.playing and time.monotonic() < end:
        app.processEvents()
    assert replaying.timeline.place == 11 and not replaying.timeline.playing


@pytest.mark.viewer
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


@pytest.mark.viewer
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


@pytest.mark.viewer
def test_where_the_images_are_gone_the_pane_says_so(replaying: Window, app: Any) -> None:
    pane = replaying.panes.pictures["image"]
    replaying.timeline.go_to(5)
    wait_for(app, lambda: "no such file" in pane.words)
    assert pane.image is None
    replaying.timeline.go_to(6)  # a keyframe, whose image is in the map
    wait_for(app, lambda: pane.image is not None)
    assert pane.words == ""


@pytest.mark.viewer
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


@pytest.mark.viewer
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


@pytest.mark.viewer
def test_without_a_recording_there_is_nothing_to_play(window: Window, small_run: Path) -> None:
    window.show_scene(load(small_run / "map.ply").scene)
    assert not window.timeline.isVisible()
    assert not any(window.actions_of[c.name].isEnabled() for c in COMMANDS if c.replay)
