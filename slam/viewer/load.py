"""Scenes from files: a saved map, the output folder of an older run, or a point cloud."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np

from slam.config import Config, load_config
from slam.export import read_ply
from slam.frame import Intrinsics, TrackState
from slam.saved_map import load_map
from slam.sources import Source
from slam.sources.configured import open_configured
from slam.sources.ground_truth import mirrored
from slam.trajectory import Trajectory, associate, read_trajectory
from slam.viewer.frame_images import SAME_TIME, FrameImages, expect_same_recording
from slam.viewer.points import VERTEX, cloud_vertices, point_vertices
from slam.viewer.recording import Recording, places_of, playing_seconds
from slam.viewer.saved import in_order, open_source_of, recording_of_map, scene_of_map
from slam.viewer.scene import KeyframeView, Scene, edge_pairs

log = logging.getLogger(__name__)

ARRAYS = ("index", "time", "T_WC", "inverse_depth", "information", "pixel", "working_size")
ARRAYS += ("intrinsics",)
OF_KEYFRAMES = ("index", "time", "T_WC", "inverse_depth", "information")
MAP = "map.slam"
NUMBERED = {"icl": 1 / 30}  # s of a stamp, of formats whose stamps are frame numbers
NO_CAMERA: Intrinsics = (1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What can be shown of a file or folder."""

    scene: Scene
    recording: Recording | None  # None: nothing says what happened when
    images: FrameImages | None  # of the recording's frames


def load_scene(path: Path) -> Scene:
    """The scene alone of `load`, which see for errors."""
    return load(path).scene


def load(path: Path) -> Loaded:
    """A saved map, the folder of a run, or a PLY file alone.

    Of a folder, map.slam is taken; where an older run has none, the keyframes' dense depths in
    keyframes.npz are coloured by the images of the run's source, and where those are not at hand,
    map.ply is shown in their place.

    Raises FileNotFoundError where there is no run, ValueError for damaged files.
    """
    if path.is_file() and path.suffix.lower() == ".ply":
        return Loaded(_cloud_scene(path), None, None)
    if path.is_file() or (path / MAP).is_file():
        return _load_map(path)
    if not (path / "keyframes.npz").is_file():
        raise FileNotFoundError(
            f"{path}: wanted the output folder of `slam run`, with map.slam or keyframes.npz, a "
            "map.slam, or a .ply file"
        )
    return _load_run(path)


def _load_map(path: Path) -> Loaded:
    saved = in_order(load_map(path))
    recording = recording_of_map(saved)
    scene = scene_of_map(saved, recording)
    if not len(recording):
        return Loaded(scene, None, None)
    images = FrameImages(recording, scene.keyframes, lambda: open_source_of(saved))
    return Loaded(scene, recording, images)


def _load_run(path: Path) -> Loaded:
    """Of a run that left no map.slam."""
    stored, report = _read_arrays(path / "keyframes.npz"), _read_report(path / "report.json")
    source = _source_of(path, report)
    images = {} if source is None else _images(source, stored)
    bare = not images and (path / "map.ply").is_file()
    trajectory = _trajectory(path / "trajectory.txt", stored)
    weak = associate(trajectory.times, np.array(report.get("weak_times", []), float), SAME_TIME)
    width, height = (int(n) for n in stored["working_size"])
    fx, fy, cx, cy = (float(value) for value in stored["intrinsics"])
    columns = np.unique(stored["pixel"][:, 0])
    scene = Scene(
        keyframes=tuple(_views(stored, images)),
        path=trajectory.poses,
        solved=~np.isin(np.arange(len(trajectory)), weak[:, 0]),
        edges=edge_pairs(stored["edges"]),
        intrinsics=(fx, fy, cx, cy),
        size=(width, height),
        stride=int(columns[1] - columns[0]) if len(columns) > 1 else 1,
        loose=_cloud_scene(path / "map.ply").loose if bare else np.empty(0, VERTEX),
    )
    frames = report.get("frame_list", [])
    if not frames:
        return Loaded(scene, None, None)
    recording = _recording(frames, report.get("format", ""), trajectory, stored["index"])
    opened = FrameImages(recording, scene.keyframes, lambda: _open(path, report))
    return Loaded(scene, recording, opened)


def _recording(
    frames: list[dict[str, Any]], format: str, trajectory: Trajectory, made: np.ndarray
) -> Recording:
    """What happened when, as a run reports it.

    Args: made: [K] indices of the keyframes' images, sorted.
    """
    index = np.array([frame["index"] for frame in frames], np.int64)
    times = np.array([frame["time"] for frame in frames], float)
    T_WC = np.full((len(frames), 7), np.nan)
    pairs = associate(times, trajectory.times, SAME_TIME)
    T_WC[pairs[:, 0]] = trajectory.poses[pairs[:, 1]]
    places = places_of(made, index)
    newest = np.searchsorted(places, np.arange(len(frames)), side="right") - 1
    return Recording(
        index=index,
        time=times,
        seconds=playing_seconds(index, times * NUMBERED.get(format, 1.0)),
        states=tuple(TrackState(frame["state"]) for frame in frames),
        T_WC=T_WC,
        keyframe=np.where(np.isfinite(T_WC[:, 0]), newest, -1),
        made=places,
    )


def _cloud_scene(path: Path) -> Scene:
    """A point cloud alone."""
    cloud = read_ply(path)
    return Scene(
        keyframes=(),
        path=np.empty((0, 7)),
        solved=np.empty(0, bool),
        edges=edge_pairs([]),
        intrinsics=NO_CAMERA,
        size=(4, 3),
        stride=1,
        loose=cloud_vertices(cloud.points, cloud.colors, cloud.confidence),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The stored arrays, the keyframes in the order of their images."""
    try:
        with np.load(path) as stored:
            edges = stored["edges"] if "edges" in stored.files else np.empty((0, 2), np.int64)
            arrays = {name: stored[name] for name in ARRAYS}
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: wanted what `slam run` writes, found a damaged file") from error
    order = np.argsort(arrays["index"], kind="stable")
    arrays |= {name: arrays[name][order] for name in OF_KEYFRAMES}
    return arrays | {"edges": np.argsort(order)[edges]}


def _read_report(path: Path) -> dict[str, Any]:
    """Empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def _open(folder: Path, report: Mapping[str, Any]) -> Source:
    """The source that a run was made from. Raises FileNotFoundError or ValueError."""
    config: Config = load_config(folder / "config.yaml")
    path = config.source.path
    if not Path(path).exists():
        path = report.get("source", path)  # the whole path, where that one is relative
    return open_configured(replace(config, source=replace(config.source, path=path)))


def _source_of(folder: Path, report: Mapping[str, Any]) -> Source | None:
    """The same; None, and a warning, where it is not at hand."""
    try:
        return _open(folder, report)
    except (ValueError, OSError) as error:
        log.warning("without the images of the run: %s", " ".join(str(error).split()))
        return None


def _images(source: Source, stored: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Working images of the keyframes, by their index; empty where the source is another one."""
    try:
        places = expect_same_recording(source, stored["index"], stored["time"])
    except ValueError as error:
        log.warning("%s; shown without them", error)
        return {}
    size = tuple(int(n) for n in stored["working_size"])
    return {
        image.index: cv2.resize(image.rgb.numpy(), size, interpolation=cv2.INTER_AREA)
        for image in source.images([int(place) for place in places])
    }


def _views(stored: dict[str, np.ndarray], images: dict[int, np.ndarray]) -> list[KeyframeView]:
    pixel = stored["pixel"]
    shape = (len(np.unique(pixel[:, 1])), len(np.unique(pixel[:, 0])))
    column, row = np.rint(pixel).astype(np.int64).T
    found = []
    for index, T_WC, value, information in zip(
        *(stored[name] for name in ("index", "T_WC", "inverse_depth", "information")), strict=True
    ):
        rgb = images.get(int(index))
        vertices = np.empty(0, VERTEX)
        if rgb is not None:
            vertices = point_vertices(pixel, value, information, rgb[row, column])
        trust = (value * np.sqrt(information)).reshape(shape)
        found.append(
            KeyframeView(int(index), T_WC, vertices, 1.0, value.reshape(shape), trust, rgb)
        )
    return found


def _trajectory(file: Path, stored: Mapping[str, np.ndarray]) -> Trajectory:
    """Poses of all frames, right-handed; the keyframes' where there is no file of them."""
    if not file.is_file() or len(stored["time"]) == 0:
        return Trajectory(stored["time"], stored["T_WC"])
    written = read_trajectory(file)
    return min((written, mirrored(written)), key=lambda t: _distance(t, stored))


def _distance(trajectory: Trajectory, stored: Mapping[str, np.ndarray]) -> float:
    """Of the keyframes' positions from those of the trajectory at their times."""
    order = np.argsort(stored["time"])
    pairs = associate(trajectory.times, stored["time"][order], SAME_TIME)
    apart = trajectory.positions[pairs[:, 0]] - stored["T_WC"][order][pairs[:, 1], :3]
    return float(np.linalg.norm(apart, axis=1).sum())
