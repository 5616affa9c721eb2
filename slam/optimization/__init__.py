"""Optimisation over the map: dense bundle adjustment."""

from slam.optimization.dense_ba import BundleAdjustment, bundle_adjust, observed_information

__all__ = ["BundleAdjustment", "bundle_adjust", "observed_information"]
