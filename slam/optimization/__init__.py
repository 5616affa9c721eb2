"""Optimisation over the map: dense bundle adjustment and Sim(3) graphs."""

from slam.optimization.dense_ba import BundleAdjustment, bundle_adjust, observed_information
from slam.optimization.pointmap_factor import (
    PointmapFactor,
    factor_matches,
    factor_of,
    pack_factor,
)
from slam.optimization.pose_graph import PoseGraphSolution, optimise_pose_graph
from slam.optimization.relative_poses import (
    RelativePose,
    RelativePoses,
    optimise_relative_poses,
)

__all__ = [
    "BundleAdjustment",
    "PointmapFactor",
    "PoseGraphSolution",
    "RelativePose",
    "RelativePoses",
    "bundle_adjust",
    "factor_matches",
    "factor_of",
    "observed_information",
    "optimise_pose_graph",
    "optimise_relative_poses",
    "pack_factor",
]
