"""Settings of what works on pointmaps, with units; config.py puts them beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slam.settings import Section, setting


@dataclass(frozen=True, slots=True)
class DescentSettings(Section):
    """Levenberg-Marquardt over matched points, and which of them are left out in the end."""

    iterations: int = setting(50, help="at most, of each descent", minimum=1)
    damping: float = setting(1e-4, help="first, relative to the diagonal", minimum=0.0)
    relative_decrease: float = setting(
        1e-6, help="of the cost, at which it has converged", minimum=0.0
    )
    outlier: float = setting(
        6.0,
        help="times the middle match's error beyond which one is left out in the end",
        minimum=1.0,
    )


@dataclass(frozen=True, slots=True)
class PoseGraphSettings(Section):
    """Sim(3) optimisation of keyframes."""

    descent: DescentSettings = DescentSettings(iterations=10, damping=1e-6)  # at each scale
    factor_outlier: float = setting(
        20.0,
        help="mean robust cost of a match at which its whole factor is half believed",
        minimum=1e-3,
    )


@dataclass(frozen=True, slots=True)
class MatchingSettings(Section):
    """Pixels of one pointmap found in another."""

    method: Literal["projective", "reciprocal"] = setting(
        "projective",
        help="projective follows viewing rays; reciprocal compares descriptors: slow, no guess",
    )
    iterations: int = setting(10, help="of the descent to a pixel", minimum=1, maximum=100)
    damping: float = setting(1e-3, help="of its first step, relative", minimum=0.0)
    ray_error: float = setting(
        0.5, unit="px", help="largest angle left between the rays of a match", minimum=0.0
    )
    gap: float = setting(
        0.1,
        help="largest distance between the points of a match, of theirs from the camera",
        minimum=0.0,
    )
    radius: int = setting(
        3,
        unit="px",
        help="a window of descriptors has 2 n + 1 px a side; 0 = they are not compared",
        minimum=0,
        maximum=20,
    )
    dilation: int = setting(
        5,
        unit="px",
        help="between the pixels of the first window; 1 less in each that follows",
        minimum=1,
        maximum=20,
    )
    descriptor_confidence: float = setting(1.5, help="that a match needs at least", minimum=0.0)
    sigma: float = setting(
        1.0,
        unit="px",
        help="standard deviation of a match whose descriptor confidence is 1",
        minimum=1e-3,
    )
    stride: int = setting(
        8, unit="px", help="between the pixels that reciprocal matching starts from", minimum=1
    )
    rounds: int = setting(
        10, help="there and back, after which a start is given up", minimum=1, maximum=100
    )
