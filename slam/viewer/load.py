"""Scenes from files: the output folder of a run, or a point cloud."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from slam.config import load_config
from slam.export import read_ply
from slam.frame import Intrinsics
from slam.sources import Source, open_source
from slam.sources.ground_truth import mirrored
from slam.trajectory import Trajectory, associate, read_trajectory
from slam.viewer.points import VERTEX, cloud_vertices, point_vertices
from slam.viewer.scene import KeyframeView, Scene, edge_pairs

log = logging.getLogger(__name__)

ARRAYS = ("index", "time", "T_WC", "inverse_depth", "information", "pixel", "working_size")
ARRAYS += ("intrinsics",)
SAME_TIME = 1e-5  # stamps are written with 6 decimals
NO_CAMERA: Intrinsics = (1.0, 1.0, 0.0, 0.0)


def load_scene(path: Path) -> Scene:
    """What a run left behind, or a PLY file alone.

    The keyframes' dense depths are coloured by the images of the run's source; where those are not
    at hand, map.ply is shown in their place.

    Raises FileNotFoundError where there is no run, ValueError for damaged files.
    """
    if path.is_file() and path.suffix.lower() == ".ply":
        return _cloud_scene(path)
    if not (path / "keyframes.npz").is_file():
        raise FileNotFoundError(
            f"{path}: wanted the output folder of `slam run`, with keyframes.npz, or a .ply file"
        )
    stored = _read_arrays(path / "keyframes.npz")
    source = _source_of(path)
    images = {} if source is None else _images(source, stored)
    keyframes = tuple(_views(stored, images))
    bare = not images and (path / "map.ply").is_file()
    poses, solved = _path(path, stored)
    width, height = (int(n) for n in stored["working_size"])
    fx, fy, cx, cy = (float(value) for value in stored["intrinsics"])
    columns = np.unique(stored["pixel"][:, 0])
    return Scene(
        keyframes=keyframes,
        path=poses,
        solved=solved,
        edges=edge_pairs(stored["edges"]),
        intrinsics=(fx, fy, cx, cy),
        size=(width, height),
        stride=int(columns[1] - columns[0]) if len(columns) > 1 else 1,
        loose=_cloud_scene(path / "map.ply").loose if bare else np.empty(0, VERTEX),
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
    try:
        with np.load(path) as stored:
            edges = stored["edges"] if "edges" in stored.files else np.empty((0, 2), np.int64)
            return {name: stored[name] for name in ARRAYS} | {"edges": edges}
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: wanted what `slam run` writes, found a damaged file") from error


def _source_of(folder: Path) -> Source | None:
    """The source that a run was made from; None, and a warning, where it is not at hand."""
    try:
        chosen = load_config(folder / "config.yaml").source
        return open_source(
            chosen.path,
            format=chosen.format,
            calibration=chosen.calibration,
            fov=chosen.fov,
            start=chosen.start,
            end=chosen.end,
            stride=chosen.stride,
        )
    except (ValueError, OSError) as error:
        log.warning("without the images of the run: %s", " ".join(str(error).split()))
        return None


def _images(source: Source, stored: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Working images of the keyframes, by their index; empty where the source is another one."""
    known = np.isin(stored["index"], source.indices)
    places = np.searchsorted(source.indices, stored["index"])
    if not known.all() or (np.abs(source.times[places] - stored["time"]) > SAME_TIME).any():
        log.warning("%s: not the images of the run; shown without them", source.path)
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


def _path(folder: Path, stored: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Poses [N, 7] of all frames, right-handed, and which of them [N] were solved."""
    file = folder / "trajectory.txt"
    if not file.is_file() or len(stored["time"]) == 0:
        return stored["T_WC"], np.ones(len(stored["T_WC"]), bool)
    written = read_trajectory(file)
    chosen = min((written, mirrored(written)), key=lambda t: _distance(t, stored))
    weak = associate(chosen.times, _weak_times(folder / "report.json"), SAME_TIME)[:, 0]
    return chosen.poses, ~np.isin(np.arange(len(chosen)), weak)


def _weak_times(report: Path) -> np.ndarray:
    """Times [N] of the frames whose pose was not solved, as a run reports them."""
    if not report.is_file():
        return np.empty(0)
    return np.array(json.loads(report.read_text()).get("weak_times", []), float)


def _distance(trajectory: Trajectory, stored: dict[str, np.ndarray]) -> float:
    """Of the keyframes' positions from those of the trajectory at their times."""
    order = np.argsort(stored["time"])
    pairs = associate(trajectory.times, stored["time"][order], SAME_TIME)
    apart = trajectory.positions[pairs[:, 0]] - stored["T_WC"][order][pairs[:, 1], :3]
    return float(np.linalg.norm(apart, axis=1).sum())
