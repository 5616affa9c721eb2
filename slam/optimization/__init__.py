"""Optimisation over the map: dense bundle adjustment, and the Sim(3) graph of pointmaps."""

from slam.optimization.dense_ba import BundleAdjustment, bundle_adjust, observed_information
from slam.optimization.pointmap_factor import (
    PointmapFactor,
    factor_matches,
    factor_of,
    pack_factor,
)
from slam.optimization.pose_graph import PoseGraphSolution, optimise_pose_graph

__all__ = [
    "BundleAdjustment",
    "PointmapFactor",
    "PoseGraphSolution",
    "bundle_adjust",
    "factor_matches",
    "factor_of",
    "observed_information",
    "optimise_pose_graph",
    "pack_factor",
]
