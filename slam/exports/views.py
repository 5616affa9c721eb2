"""Keyframes as exports take them: image, pose, and the finest depths there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slam.export import PointCloud, choose_voxel_size, voxel_downsample
from slam.frame import InverseDepth
from slam.mapcloud import confidence, joined, keyframe_cloud
from slam.predictors import Grid
from slam.saved_map import SavedKeyframe, SavedMap
from slam.trajectory import write_atomically

ABOVE_ZERO = 1e-30  # the least confidence of what was measured at all


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user chose of an export; None = the format's own choice."""

    confidence: float | None = None  # least 1 / relative sigma of a depth; None: the map's own
    voxel: float | None = None  # edge of the cells that points or surface are on, unit of the map

    def __post_init__(self) -> None:
        """Raises ValueError for what can be no confidence and no edge."""
        if self.confidence is not None and not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence: wanted 0 or more, got {self.confidence}")
        if self.voxel is not None and not 0 < self.voxel < float("inf"):
            raise ValueError(f"voxel: wanted an edge above 0, got {self.voxel}")


@dataclass(frozen=True, slots=True)
class View:
    """A keyframe with its depths."""

    keyframe: SavedKeyframe
    rgb: Tensor  # [h, w, 3] uint8
    depth: InverseDepth  # [Q] on the finest grid that the map has
    known: Tensor  # [Q] bool: sure enough, and in front of the camera

    @property
    def name(self) -> str:
        """Of its files, without their ending."""
        return f"{self.keyframe.index:06d}"


def finest_grid(saved: SavedMap) -> Grid:
    """The grid that `views` have their depths on."""
    return saved.dense_grid or saved.grid


def least_confidence(saved: SavedMap, choices: Choices) -> float:
    """Of a depth that is exported."""
    return saved.confidence if choices.confidence is None else choices.confidence


def views(saved: SavedMap, choices: Choices) -> Iterator[View]:
    """All keyframes, one unpacked at a time. Raises ValueError for a map without any."""
    least = least_confidence(saved, choices)
    if not saved.keyframes:
        raise ValueError(f"map of {saved.origin.name}: wanted keyframes to export, it has none")
    for keyframe in saved.keyframes:
        depth = (keyframe.dense or keyframe.depth).unpack()
        known = (confidence(depth) >= least) & (depth.information > 0) & (depth.value > 0)
        yield View(keyframe, keyframe.rgb, depth, known)


def cloud_of(saved: SavedMap, choices: Choices) -> PointCloud:
    """The coloured points, one for each voxel, as in map.ply; right-handed.

    Raises ValueError where none is sure enough, or for a voxel that is not above 0.
    """
    grid, least = finest_grid(saved), least_confidence(saved, choices)
    clouds = []
    for view in views(saved, choices):
        sure = InverseDepth(view.depth.value, view.depth.information * view.known)
        place = view.rgb, view.keyframe.T_WC, saved.intrinsics
        clouds.append(keyframe_cloud(*place, grid, sure, max(least, ABOVE_ZERO)))
    cloud = joined(clouds)
    if not len(cloud.points):
        raise ValueError(
            f"map of {saved.origin.name}: wanted depths with confidence {least:g} or more, got "
            "none; take a smaller one (--confidence)"
        )
    size = choose_voxel_size(cloud.points) if choices.voxel is None else choices.voxel
    return voxel_downsample(cloud.points, cloud.colors, cloud.confidence, size)


def write_image(folder: Path, view: View) -> str:
    """Writes a keyframe's JPEG, as the map holds it; returns its name."""
    name = f"{view.name}.jpg"
    write_atomically(folder / name, bytes(view.keyframe.jpeg))
    return name
