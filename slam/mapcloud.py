"""The map as one coloured point cloud, for files and pictures."""

from __future__ import annotations

import numpy as np
import torch

from slam.export import PointCloud
from slam.frame import Snapshot
from slam.lie import se3_act
from slam.predictors.grid import Grid
from slam.tracking import unproject

CONFIDENT = 20.0  # default threshold on 1 / relative sigma of a depth: 5 %


def point_cloud(snapshot: Snapshot, grid: Grid, threshold: float = CONFIDENT) -> PointCloud:
    """All keyframes' points with at least `threshold` confidence, in the world frame."""
    points, colors, confidences = [], [], []
    for keyframe in snapshot.keyframes:
        confidence = keyframe.depth.value * keyframe.depth.information.sqrt()
        keep = confidence >= threshold
        X_C = unproject(grid.pixel[keep], keyframe.depth.value[keep], snapshot.intrinsics)
        points.append(se3_act(keyframe.T_WC.expand(len(X_C), 7), X_C.double()).float())
        colors.append(grid.sample(keyframe.frame.features.rgb)[keep])
        confidences.append(confidence[keep])
    if not points:
        return PointCloud(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32)
        )
    return PointCloud(
        torch.cat(points).numpy(), torch.cat(colors).numpy(), torch.cat(confidences).numpy()
    )
