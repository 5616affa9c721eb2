"""Point clouds on disk and thinned: binary PLY, voxel grids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slam.trajectory import write_atomically

PLY_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "<i2",
    "ushort": "<u2",
    "int": "<i4",
    "uint": "<u4",
    "float": "<f4",
    "double": "<f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "float32": "<f4",
    "float64": "<f8",
}
VOXELS_ACROSS = 512  # a voxel is this fraction of the scene's extent


@dataclass(frozen=True, slots=True)
class PointCloud:
    """Coloured points of the world."""

    points: np.ndarray  # [N, 3] float32, world frame, metres up to scale
    colors: np.ndarray  # [N, 3] uint8 RGB
    confidence: np.ndarray | None  # [N] float32, >= 0; None where not known


def write_ply(
    path: Path | str, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray | None = None
) -> None:
    """Writes binary little-endian PLY with x y z, red green blue, and confidence where given.

    Args:
        points: [N, 3] float32, finite. colors: [N, 3] uint8 RGB. confidence: [N] float32.
    The file appears complete or not at all. Raises ValueError for other shapes or types.
    """
    _require_cloud(points, colors, confidence)
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    if confidence is not None:
        fields.append(("confidence", "<f4"))
    vertices = np.empty(len(points), dtype=fields)
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colors[:, channel]
    if confidence is not None:
        vertices["confidence"] = confidence
    names = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {names[kind]} {name}" for name, kind in fields]
    header += ["end_header", ""]
    write_atomically(Path(path), "\n".join(header).encode() + vertices.tobytes())


def read_ply(path: Path | str) -> PointCloud:
    """Reads the vertices of a binary little-endian PLY; other properties and elements are left out.

    Points without colours come grey. Raises FileNotFoundError, and ValueError for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such point cloud")
    content = path.read_bytes()
    count, fields, start = _parse_header(path, content)
    layout = np.dtype(fields)
    if len(content) - start < count * layout.itemsize:
        raise ValueError(
            f"{path}: wanted {count} vertices of {layout.itemsize} bytes, "
            f"found {len(content) - start} bytes; the file is cut off"
        )
    vertices = np.frombuffer(content, layout, count, start)
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(f"{path}: wanted vertices with x, y, z, found {', '.join(names)}")
    has_colors = {"red", "green", "blue"} <= set(names)
    colors = np.full((count, 3), 128, np.uint8)
    if has_colors:
        colors = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)
    return PointCloud(
        points=np.stack([vertices[name] for name in ("x", "y", "z")], axis=1).astype(np.float32),
        colors=colors.astype(np.uint8),
        confidence=vertices["confidence"].astype(np.float32) if "confidence" in names else None,
    )


def choose_voxel_size(points: np.ndarray) -> float:
    """A voxel edge that keeps what a picture of the whole scene can show, unit of the points.

    It is the diagonal of the box of the middle 90 % on each axis over VOXELS_ACROSS: outliers do
    not count. Raises ValueError where the points [N, 3] have no extent.
    """
    if len(points) == 0:
        raise ValueError("choose_voxel_size wants points, got none")
    sample = points[:: sample_step(len(points))].astype(np.float64)
    low, high = np.percentile(sample, [5, 95], axis=0)
    extent = float(np.linalg.norm(high - low))
    if extent == 0:
        raise ValueError("choose_voxel_size wants points with an extent, got one place")
    return extent / VOXELS_ACROSS


def sample_step(count: int) -> int:
    """Which of so many points tell enough of their extent: every so manieth."""
    return max(1, count // 200_000)


def voxel_downsample(
    points: np.ndarray, colors: np.ndarray, confidence: np.ndarray | None, size: float
) -> PointCloud:
    """One point for each occupied voxel: the confidence-weighted mean of its points.

    Position, colour and confidence are all means with weight = confidence (equal weights without
    it, and in voxels where it is 0). Points come out in the order of their voxels.

    Args:
        points [N, 3] float32, colors [N, 3] uint8, confidence [N] float32 or None.
        size: voxel edge, unit of the points, > 0.
    """
    _require_cloud(points, colors, confidence)
    if not size > 0:
        raise ValueError(f"voxel_downsample wants a voxel size above 0, got {size}")
    if len(points) == 0:
        return PointCloud(points, colors, confidence)
    keys = _voxel_keys(points, size)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] - 1))
    weights = np.ones(len(points)) if confidence is None else confidence.astype(np.float64)
    weights = np.maximum(weights, np.finfo(np.float32).tiny)[order]
    total = np.add.reduceat(weights, starts)

    def mean(column: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights * column[order], starts) / total

    return PointCloud(
        points=np.stack([mean(column) for column in points.T], axis=1).astype(np.float32),
        colors=np.round(np.stack([mean(column) for column in colors.T], axis=1)).astype(np.uint8),
        confidence=None if confidence is None else mean(confidence).astype(np.float32),
    )


def voxel_rows(points: np.ndarray, size: float, axis: int | slice = 0) -> np.ndarray:
    """Which row of voxels across an axis each of the points [N, 3] is in, [N] int64; or all."""
    return np.floor(points[:, axis] / np.float64(size)).astype(np.int64)


def _voxel_keys(points: np.ndarray, size: float) -> np.ndarray:
    """A number for each point's voxel, [N] int64, in the order of x, then y, then z."""
    cells = voxel_rows(points, size, axis=slice(None))
    cells -= cells.min(axis=0)
    ranges = [int(extent) for extent in cells.max(axis=0) + 1]
    if ranges[0] * ranges[1] * ranges[2] < 2**62:
        return (cells[:, 0] * ranges[1] + cells[:, 1]) * ranges[2] + cells[:, 2]
    ranked = [np.unique(column, return_inverse=True)[1] for column in cells.T]
    columns = np.unique(ranked[0] * len(points) + ranked[1], return_inverse=True)[1]
    return columns * len(points) + ranked[2]


def _require_cloud(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray | None) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype != np.float32:
        raise ValueError(f"points: wanted [N, 3] float32, got {points.shape} {points.dtype}")
    if colors.shape != points.shape or colors.dtype != np.uint8:
        raise ValueError(f"colors: wanted {points.shape} uint8, got {colors.shape} {colors.dtype}")
    if confidence is not None and confidence.shape != points.shape[:1]:
        raise ValueError(f"confidence: wanted {points.shape[:1]}, got {confidence.shape}")
    if not np.isfinite(points).all():
        row = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise ValueError(f"points: wanted finite numbers, point {row} is {points[row]}")


def _parse_header(path: Path, content: bytes) -> tuple[int, list[tuple[str, str]], int]:
    """Number of vertices, their fields, and where their bytes start."""
    end = content.find(b"\nend_header")
    start = content.find(b"\n", end + 1) + 1
    lines = content[: max(end, 0)].decode("ascii", errors="replace").splitlines()
    if lines[:1] != ["ply"] or "format binary_little_endian 1.0" not in lines:
        raise ValueError(f"{path}: wanted a binary little-endian PLY file, found another kind")
    words = [line.split() for line in lines if line.split()[:1] in (["element"], ["property"])]
    if not words or words[0][:2] != ["element", "vertex"] or not words[0][-1].isdigit():
        raise ValueError(f"{path}: wanted 'element vertex' with a count first in the PLY header")
    fields = []
    for entry in words[1:]:
        if entry[0] == "element":
            break
        if len(entry) != 3 or entry[1] not in PLY_TYPES:
            raise ValueError(f"{path}: wanted plain vertex properties, found '{' '.join(entry)}'")
        fields.append((entry[2], PLY_TYPES[entry[1]]))
    return int(words[0][-1]), fields, start
