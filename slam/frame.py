"""The values that flow through the system. Frozen, one comment a field, no computation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class TrackState(Enum):
    """How a frame's pose was obtained."""

    PENDING = "pending"  # seen before the map existed; posed afterwards
    TRACKED = "tracked"  # solved from measurements
    WEAK = "weak"  # extrapolated: too few measurements to solve it
    LOST = "lost"  # no pose
    RELOCALISED = "relocalised"  # solved from measurements after being lost


@dataclass(frozen=True, slots=True)
class Image:
    """One decoded image of a source."""

    index: int  # place in the source's full list of images, 0-based, whatever --start and --stride
    time: float  # time stamp as the source writes it (s; frame number for ICL-NUIM)
    seconds: float  # the same on a clock in seconds, for pacing and per-second metrics
    rgb: Tensor  # [H, W, 3] uint8, undistorted where the camera is calibrated


@dataclass(frozen=True, slots=True)
class Pointmap:
    """A 3D point for every pixel of one image."""

    X_C: Tensor  # [H, W, 3] float32, camera frame, metres up to scale
    confidence: Tensor  # [H, W] float32, >= 0; 0 = never measured


@dataclass(frozen=True, slots=True)
class Correspondence:
    """Where the grid pixels of one image land in another."""

    target: Tensor  # [P, 2] float32, (u, v) px in the other image, sub-pixel
    weight: Tensor  # [P] float32, 1 / variance in 1/px^2; 0 = no correspondence


@dataclass(frozen=True, slots=True)
class InverseDepth:
    """Inverse depth on a keyframe's grid."""

    value: Tensor  # [P] float32, 1/m up to scale
    information: Tensor  # [P] float32, 1 / variance; 0 = never measured
