"""The map as one coloured point cloud, for files and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slam.export import (
    PointCloud,
    choose_voxel_size,
    sample_step,
    voxel_downsample,
    voxel_rows,
)
from slam.frame import Intrinsics, InverseDepth, Snapshot
from slam.lie import se3_act
from slam.paging import Pages
from slam.predictors import Grid
from slam.tracking import unproject

SLICE = 1_000_000  # points, about, that are thinned at once


def confidence(depth: InverseDepth) -> torch.Tensor:
    """1 / relative standard deviation of each depth, >= 0; 0 = never measured."""
    return depth.value * depth.information.sqrt()


def point_cloud(
    snapshot: Snapshot, grid: Grid, depths: Sequence[InverseDepth], threshold: float
) -> PointCloud:
    """All keyframes' points with at least `threshold` confidence, in the world frame.

    Args: depths: [P] on `grid`, one for each keyframe.
    """
    return joined(
        [
            keyframe_cloud(
                k.frame.features.rgb, k.T_WC, snapshot.intrinsics, grid, depth, threshold
            )
            for k, depth in zip(snapshot.keyframes, depths, strict=True)
        ]
    )


def thinned_cloud(
    snapshot: Snapshot,
    grid: Grid,
    depths: Sequence[InverseDepth],
    threshold: float,
    pages: Pages,
) -> PointCloud:
    """The cloud of `point_cloud` with one point a voxel, of a size that a picture of it all needs.

    Memory need hold but one keyframe's points at a time, then those of a slice of the world.

    Args: pages: keep the others.
    """
    intrinsics, count = snapshot.intrinsics, 0
    clouds: list[PointCloud] = []
    for k, depth in zip(snapshot.keyframes, depths, strict=True):
        rgb = k.frame.features.rgb
        cloud = keyframe_cloud(rgb, k.T_WC, intrinsics, grid, depth, threshold)
        count += len(cloud.points)
        clouds.append(pages.keep(cloud))
    if count == 0:
        return joined([])
    sample = _every(sample_step(count), clouds)
    size = choose_voxel_size(sample)
    parts = map(joined, _slices(clouds, _bounds(sample, size, count), size, pages))
    return joined([voxel_downsample(c.points, c.colors, c.confidence, size) for c in parts])


def _every(step: int, clouds: Sequence[PointCloud]) -> np.ndarray:
    """Every `step`-th point of all [n, 3]."""
    found, before = [], 0
    for cloud in clouds:
        found.append(cloud.points[-before % step :: step])
        before += len(cloud.points)
    return np.concatenate(found)


def _bounds(sample: np.ndarray, size: float, count: int) -> np.ndarray:
    """Rows of voxels across x [n - 1] that begin new slices, each of about SLICE points."""
    slices = -(-count // SLICE)
    x = np.sort(voxel_rows(sample, size))
    return np.unique(x[[len(x) * n // slices for n in range(1, slices)]])


def _slices(
    clouds: Sequence[PointCloud], bounds: np.ndarray, size: float, pages: Pages
) -> list[list[PointCloud]]:
    """The points of all clouds by slices of the world across x, in their order."""
    out: list[list[PointCloud]] = [[] for _ in range(len(bounds) + 1)]
    if len(out) == 1:
        return [list(clouds)]
    for cloud in clouds:
        points, colors, confidence = cloud.points, cloud.colors, cloud.confidence
        assert confidence is not None
        of_point = np.searchsorted(bounds, voxel_rows(points, size), side="right")
        for n in np.unique(of_point):
            own = of_point == n
            out[n].append(pages.keep(PointCloud(points[own], colors[own], confidence[own])))
    return [part for part in out if part]


def keyframe_cloud(
    rgb: Tensor,
    T_WC: Tensor,
    intrinsics: Intrinsics,
    grid: Grid,
    depth: InverseDepth,
    threshold: float,
) -> PointCloud:
    """One keyframe's points with at least `threshold` confidence, in the world frame.

    Args: rgb: [h, w, 3] uint8. depth: [P] on `grid`.
    """
    trust = confidence(depth)
    keep = trust >= threshold
    X_C = unproject(grid.pixel[keep], depth.value[keep], intrinsics)
    X_W = se3_act(T_WC.expand(len(X_C), 7), X_C.double()).float()
    return PointCloud(X_W.numpy(), grid.sample(rgb)[keep].numpy(), trust[keep].numpy())


def joined(clouds: Sequence[PointCloud]) -> PointCloud:
    """All points of clouds with confidences."""
    nothing = PointCloud(
        np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32)
    )
    all_of = [nothing, *clouds]
    return PointCloud(
        np.concatenate([c.points for c in all_of]),
        np.concatenate([c.colors for c in all_of]),
        np.concatenate([c.confidence for c in all_of if c.confidence is not None]),
    )
