r"""What the file of a saved map holds, field by field; older versions are upgraded when read.

Version 1. `about`, single values:

| name | holds |
| --- | --- |
| `made_by` | the program that wrote it |
| `source` | `name`, `path`, `format` (text); `mirrored`: it writes poses left-handed |
| `camera` | of the source's images: `model`, `width`, `height`, `intrinsics`, `distortion`, as in a
  calibration file; `calibrated`: false = a guess |
| `predictor`, `config` | its name; the run's config.yaml, as text |
| `confidence` | 1 / relative sigma that a point of map.ply has at least |
| `grid` | `width`, `height` px of the working images, `stride` px of the pixels with depth |
| `dense_stride` | px, of the dense depths; null = there are none |
| `intrinsics` | fx, fy, cx, cy px at working size, pixel centres at integers |
| `readout`, `pinhole` | s, 0 = global shutter; whether the intrinsics are known |
| `states` | names of the frames' states: `frame.state` counts into them |

Parts, for K keyframes, N frames, E edges, P grid pixels (row by row), D dense ones, images of h x w
px. Poses are SE(3) `tx ty tz qx qy qz qw`; lengths are up to one scale for the map.

| name | type and shape | holds |
| --- | --- | --- |
| `keyframe.index` | int64 [K] | place in the source's list of images; plus 2^32 for each source
  that the map was made from before this one |
| `keyframe.time` | float64 [K, 2] | time as the source writes it; the same in seconds |
| `keyframe.pose` | float64 [K, 7] | T_WC, takes camera points to the world |
| `image.end` | int64 [K] | where each image ends in `image.jpeg` |
| `image.jpeg` | uint8 [bytes] | the working images as JPEG files, one after the other |
| `depth.scale` | float64 [K] | of the two below |
| `depth.value` | float16 [K, P] | inverse depth over scale |
| `depth.information` | float16 [K, P] | root of 1 / variance, times scale; 0 = never measured |
| `dense.*` | the same [K, D] | of the dense depths |
| `pointmap.scale` | float64 [K] | of `pointmap.distance` |
| `pointmap.count` | int64 [K] | observations fused |
| `pointmap.ray` | int16 [K, h, w, 2] | direction of each pixel's point in the camera, on the
  octahedron \|x\| + \|y\| + \|z\| = 1 seen from +z (z < 0 folded over), times 32767 |
| `pointmap.distance` | float16 [K, h, w] | from the camera, over scale |
| `pointmap.confidence` | float16 [K, h, w] | of one observation, over `count`; 0 = not known |
| `frame.index` | int64 [N] | as `keyframe.index` |
| `frame.time` | float64 [N, 2] | as `keyframe.time` |
| `frame.state` | uint8 [N] | how its pose was obtained, see `states` |
| `frame.keyframe` | int64 [N] | number of its reference keyframe; -1 = none |
| `frame.pose` | float64 [N, 7] | T_kf, takes points of the frame to that keyframe |
| `measurement.frame` | int64 [M] | rows of the frames that have a measurement |
| `measurement.packed` | int16 [M, Q, 3] | flow (u, v) in 1/128 px and weight in 1/128 1/px^2
  from the reference keyframe, of the grid pixels in even rows and columns |
| `edge.pair` | int64 [E, 2] | (i, j): keyframe i's grid pixels were found in keyframe j |
| `edge.step` | float64 [E] | px |
| `edge.found` | uint8 [E, (P + 7) // 8] | a bit for each grid pixel, highest first: found there |
| `edge.end` | int64 [E] | where each edge ends in the two below: all that was found, M pixels |
| `edge.flow` | int16 [M, 2] | from the pixel to its place there (u, v), over step |
| `edge.weight` | float16 [M] | 1 / variance, 1/px^2 |

`dense.*`, `pointmap.*` and `measurement.*` are left out where there are none.

Version 0, of before the first release: no `readout` and no `pinhole` (0, true); `keyframe.time` and
`frame.time` are [K] and [N], in seconds only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slam import __version__
from slam.camera import Camera
from slam.frame import FrameRecord, TrackState
from slam.graph import Edge
from slam.predictors import Grid
from slam.saved_map.container import HELP, Contents, read_contents, write_contents
from slam.saved_map.packing import PackedDepth, PackedMatches, PackedPointmap
from slam.saved_map.rows import Rows
from slam.saved_map.value import Origin, SavedKeyframe, SavedMap

VERSION = 1
FILE = "map.slam"  # its name in the output folder of a run
STATES = list(TrackState)
Parts = Mapping[str, Any]  # arrays; of a map to be written also Rows


def find_map(path: Path | str) -> Path:
    """The map's file of a run's output folder, or the file itself. Raises FileNotFoundError."""
    path = Path(path)
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise FileNotFoundError(
            f"{found}: no such map; wanted a {FILE}, or the output folder of a run that has one"
        )
    return found


def save_map(path: Path | str, saved: SavedMap) -> None:
    """Writes a map's file; it appears complete or not at all."""
    write_contents(path, to_contents(saved))


def load_map(path: Path | str) -> SavedMap:
    """The map of a file, or of a run's output folder, of this version or an older one.

    All checksums are verified; large parts stay in the file, mapped, until they are unpacked.

    Raises FileNotFoundError, and ValueError for a damaged or foreign file, or a newer version.
    """
    file = find_map(path)
    contents = upgraded(file, read_contents(file))
    try:
        return _from_contents(contents)
    except KeyError as missing:
        raise ValueError(f"{file}: wanted {missing} in it, found none; {HELP}") from missing


# --- versions ------------------------------------------------------------------------------------


def upgraded(path: Path, contents: Contents) -> Contents:
    """Contents of the present version, step by step. Raises ValueError for a newer one."""
    if contents.version > VERSION:
        raise ValueError(
            f"{path}: wanted a map of version {VERSION} or less, got {contents.version}; it was "
            f"made by a newer slam ({contents.about.get('made_by')}): update this one"
        )
    while contents.version < VERSION:
        contents = UPGRADES[contents.version](contents)
    return contents


def _from_0(old: Contents) -> Contents:
    both = {
        name: np.stack([old.parts[name]] * 2, axis=1) for name in ("keyframe.time", "frame.time")
    }
    about = {"readout": 0.0, "pinhole": True, **old.about}
    return Contents(1, about, {**old.parts, **both})


UPGRADES: Mapping[int, Callable[[Contents], Contents]] = {0: _from_0}


# --- writing -------------------------------------------------------------------------------------


def to_contents(saved: SavedMap) -> Contents:
    """Single values and parts of a map."""
    parts = {
        **_keyframe_parts(saved.keyframes),
        **_depth_parts("depth", [k.depth for k in saved.keyframes], len(saved.grid.pixel)),
        **_record_parts(saved.records),
        **_edge_parts(saved.edges, len(saved.grid.pixel)),
    }
    dense = [k.dense for k in saved.keyframes if k.dense is not None]
    if saved.dense_grid is not None:
        parts |= _depth_parts("dense", dense, len(saved.dense_grid.pixel))
    if points := [k.pointmap for k in saved.keyframes if k.pointmap is not None]:
        parts |= _pointmap_parts(points)
    return Contents(VERSION, _about(saved), parts)


def _about(saved: SavedMap) -> dict[str, Any]:
    origin, camera, grid = saved.origin, saved.origin.camera, saved.grid
    return {
        "made_by": f"slam {__version__}",
        "source": {
            "name": origin.name,
            "path": origin.path,
            "format": origin.format,
            "mirrored": origin.mirrored,
        },
        "camera": {
            "model": camera.model,
            "width": camera.width,
            "height": camera.height,
            "intrinsics": camera.intrinsics,
            "distortion": camera.distortion,
            "calibrated": origin.calibrated,
        },
        "predictor": saved.predictor,
        "config": saved.config,
        "confidence": saved.confidence,
        "grid": {"width": grid.width, "height": grid.height, "stride": grid.stride},
        "dense_stride": None if saved.dense_grid is None else saved.dense_grid.stride,
        "intrinsics": saved.intrinsics,
        "readout": saved.readout,
        "pinhole": saved.pinhole,
        "states": [state.value for state in STATES],
    }


def _keyframe_parts(keyframes: Sequence[SavedKeyframe]) -> Parts:
    return {
        "keyframe.index": np.array([k.index for k in keyframes], np.int64),
        "keyframe.time": _rows([[k.time, k.seconds] for k in keyframes], 2),
        "keyframe.pose": _rows([k.T_WC.numpy() for k in keyframes], 7),
        "image.end": (ends := np.cumsum([len(k.jpeg) for k in keyframes], dtype=np.int64)),
        "image.jpeg": _rows_of(np.uint8, (_last(ends),), lambda: (k.jpeg for k in keyframes)),
    }


def _depth_parts(name: str, depths: Sequence[PackedDepth], pixels: int) -> Parts:
    return {
        f"{name}.scale": np.array([d.scale for d in depths], np.float64),
        f"{name}.value": _rows_of(
            np.float16, (len(depths), pixels), lambda: (d.value for d in depths)
        ),
        f"{name}.information": _rows_of(
            np.float16, (len(depths), pixels), lambda: (d.information for d in depths)
        ),
    }


def _pointmap_parts(points: Sequence[PackedPointmap]) -> Parts:
    size = len(points), *points[0].distance.shape
    return {
        "pointmap.scale": np.array([p.scale for p in points], np.float64),
        "pointmap.count": np.array([p.count for p in points], np.int64),
        "pointmap.ray": _rows_of(np.int16, (*size, 2), lambda: (p.ray for p in points)),
        "pointmap.distance": _rows_of(np.float16, size, lambda: (p.distance for p in points)),
        "pointmap.confidence": _rows_of(np.float16, size, lambda: (p.confidence for p in points)),
    }


def _record_parts(records: Sequence[FrameRecord]) -> Parts:
    parts = {
        "frame.index": np.array([r.index for r in records], np.int64),
        "frame.time": _rows([[r.time, r.seconds] for r in records], 2),
        "frame.state": np.array([STATES.index(r.state) for r in records], np.uint8),
        "frame.keyframe": np.array([r.keyframe for r in records], np.int64),
        "frame.pose": _rows([r.T_kf.numpy() for r in records], 7),
    }
    measured = {n: r for n, r in enumerate(records) if r.measurement is not None}
    if measured:
        parts["measurement.frame"] = np.array(list(measured), np.int64)
        parts["measurement.packed"] = _packed(list(measured.values()))
    return parts


def _packed(records: Sequence[FrameRecord]) -> Rows:
    """Measurements of frames that all have one."""
    first = records[0].measurement
    shape = () if first is None else tuple(first.shape)
    return _rows_of(
        np.int16,
        (len(records), *shape),
        lambda: (r.measurement.numpy() for r in records if r.measurement is not None),
    )


def _edge_parts(edges: Mapping[Edge, PackedMatches], pixels: int) -> Parts:
    matches, found = list(edges.values()), (len(edges), (pixels + 7) // 8)
    ends = np.cumsum([len(m.weight) for m in matches], dtype=np.int64)
    count = _last(ends)
    return {
        "edge.pair": np.array(list(edges), np.int64).reshape(-1, 2),
        "edge.step": np.array([m.step for m in matches], np.float64),
        "edge.found": _rows_of(np.uint8, found, lambda: (m.found for m in matches)),
        "edge.end": ends,
        "edge.flow": _rows_of(np.int16, (count, 2), lambda: (m.flow for m in matches)),
        "edge.weight": _rows_of(np.float16, (count,), lambda: (m.weight for m in matches)),
    }


def _last(ends: np.ndarray) -> int:
    return int(ends[-1]) if len(ends) else 0


def _rows_of(
    kind: type, shape: tuple[int, ...], pieces: Callable[[], Iterable[np.ndarray]]
) -> Rows:
    return Rows(np.dtype(kind), shape, pieces)


def _rows(values: Sequence[Any], columns: int) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, columns)


# --- reading -------------------------------------------------------------------------------------


def _from_contents(contents: Contents) -> SavedMap:
    about, parts = contents.about, contents.parts
    grid = Grid(**about["grid"])
    stride = about["dense_stride"]
    return SavedMap(
        origin=_origin(about),
        predictor=about["predictor"],
        config=about["config"],
        confidence=about["confidence"],
        grid=grid,
        dense_grid=None if stride is None else Grid(grid.width, grid.height, stride),
        intrinsics=tuple(about["intrinsics"]),
        readout=about["readout"],
        pinhole=about["pinhole"],
        keyframes=_keyframes(parts),
        records=_records(parts, [TrackState(name) for name in about["states"]]),
        edges=_edges(parts),
    )


def _origin(about: Mapping[str, Any]) -> Origin:
    camera = dict(about["camera"])
    calibrated = camera.pop("calibrated")
    return Origin(**about["source"], calibrated=calibrated, camera=Camera(**camera))


def _keyframes(parts: Parts) -> tuple[SavedKeyframe, ...]:
    ends = parts["image.end"]
    count = len(ends)
    columns = (
        parts["keyframe.index"].tolist(),
        parts["keyframe.time"].tolist(),
        _poses(parts["keyframe.pose"]),
        _cut(parts["image.jpeg"], ends),
        _depths("depth", parts),
        _depths("dense", parts) if "dense.value" in parts else [None] * count,
        _pointmaps(parts) if "pointmap.ray" in parts else [None] * count,
    )
    return tuple(
        SavedKeyframe(index, *times, *rest) for index, times, *rest in zip(*columns, strict=True)
    )


def _depths(name: str, parts: Parts) -> list[PackedDepth]:
    columns = (parts[f"{name}.{field}"] for field in ("scale", "value", "information"))
    return [PackedDepth(float(s), v, i) for s, v, i in zip(*columns, strict=True)]


def _pointmaps(parts: Parts) -> list[PackedPointmap]:
    fields = ("scale", "count", "ray", "distance", "confidence")
    columns = (parts[f"pointmap.{field}"] for field in fields)
    return [PackedPointmap(float(s), int(n), *rest) for s, n, *rest in zip(*columns, strict=True)]


def _records(parts: Parts, states: Sequence[TrackState]) -> tuple[FrameRecord, ...]:
    indices = parts["frame.index"].tolist()
    measurements: list[torch.Tensor | None] = [None] * len(indices)
    if "measurement.frame" in parts:
        packed = torch.from_numpy(np.array(parts["measurement.packed"]))
        for row, measurement in zip(parts["measurement.frame"].tolist(), packed, strict=True):
            measurements[row] = measurement
    columns = (
        indices,
        parts["frame.time"].tolist(),
        [states[code] for code in parts["frame.state"].tolist()],
        parts["frame.keyframe"].tolist(),
        _poses(parts["frame.pose"]),
        measurements,
    )
    return tuple(
        FrameRecord(index, *times, *rest) for index, times, *rest in zip(*columns, strict=True)
    )


def _edges(parts: Parts) -> dict[Edge, PackedMatches]:
    ends = parts["edge.end"]
    columns = (
        parts["edge.pair"].tolist(),
        parts["edge.step"].tolist(),
        parts["edge.found"],
        _cut(parts["edge.flow"], ends),
        _cut(parts["edge.weight"], ends),
    )
    return {
        (i, j): PackedMatches(step, found, flow, weight)
        for (i, j), step, found, flow, weight in zip(*columns, strict=True)
    }


def _cut(values: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """The pieces that end there."""
    return np.split(values, ends[:-1]) if len(ends) else []


def _poses(poses: np.ndarray) -> list[torch.Tensor]:
    return list(torch.from_numpy(np.array(poses)))
