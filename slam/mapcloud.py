"""The map as one coloured point cloud, for files and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slam.export import PointCloud
from slam.frame import Intrinsics, InverseDepth, Snapshot
from slam.lie import se3_act
from slam.predictors import Grid
from slam.tracking import unproject


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
