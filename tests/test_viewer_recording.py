"""Maps and older runs as recordings: what was there when, and the images of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CommandResult, expect_one_line
from replay_maps import merged_map, small_map, written
from sequences import cut_sample
from viewer_scenes import small_config

from slam.frame import PER_SOURCE, TrackState
from slam.run import run
from slam.saved_map import SavedMap
from slam.sources import open_source
from slam.viewer.frame_images import FrameImages, MissingImage
from slam.viewer.lines import path_lines
from slam.viewer.load import load
from slam.viewer.recording import Recording, playing_seconds

Command = Callable[..., CommandResult]


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
