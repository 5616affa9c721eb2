"""The map as one coloured point cloud, for files and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from slam.export import PointCloud
from slam.frame import InverseDepth, Snapshot
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
    points, colors, trusts = [], [], []
    for keyframe, depth in zip(snapshot.keyframes, depths, strict=True):
        trust = confidence(depth)
        keep = trust >= threshold
        X_C = unproject(grid.pixel[keep], depth.value[keep], snapshot.intrinsics)
        points.append(se3_act(keyframe.T_WC.expand(len(X_C), 7), X_C.double()).float())
        colors.append(grid.sample(keyframe.frame.features.rgb)[keep])
        trusts.append(trust[keep])
    if not points:
        return PointCloud(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32)
        )
    return PointCloud(
        torch.cat(points).numpy(), torch.cat(colors).numpy(), torch.cat(trusts).numpy()
    )
