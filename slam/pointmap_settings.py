"""Settings of what works on pointmaps, with units; config.py puts them beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slam.settings import Section, setting


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
