"""Settings of the default predictor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slam.settings import Section, setting


@dataclass(frozen=True, slots=True)
class FlowSettings(Section):
    """Dense optical flow between two images."""

    method: Literal["dis", "raft", "mixed"] = setting(
        "dis",
        help="dis needs no weights; raft starts it from RAFT-small, mixed only where in doubt",
    )
    weights: str = setting("", help="file with the weights of RAFT-small; not for dis")
    raft_iterations: int = setting(8, help="of RAFT", minimum=1, maximum=64)
    doubt: float = setting(
        0.6,
        help="matched share, without a guess, below which mixed asks RAFT",
        minimum=0.0,
        maximum=1.0,
    )
    long_side: int = setting(
        400,
        unit="px",
        help="long side of the working images (of 2 : 1 at most)",
        minimum=64,
        maximum=4096,
    )
    grid_stride: int = setting(
        4, unit="px", help="distance of the pixels that keep depth", minimum=1, maximum=64
    )
    tracking_finest_scale: int = setting(
        2, help="patch search stops at 1/2^n when tracking", minimum=0, maximum=4
    )
    keyframe_finest_scale: int = setting(
        1, help="patch search stops at 1/2^n between keyframes", minimum=0, maximum=4
    )
    tracking_iterations: int = setting(
        2, help="of Lucas-Kanade at full size, when tracking", minimum=0, maximum=50
    )
    half_size_iterations: int = setting(
        2, help="of Lucas-Kanade at half size before them", minimum=0, maximum=50
    )
    keyframe_iterations: int = setting(
        3, help="of Lucas-Kanade at full size, between keyframes", minimum=0, maximum=50
    )
    sparse: float = setting(
        0.3, help="matched share below which a pair is measured finer", minimum=0.0, maximum=1.0
    )
    window: int = setting(2, help="its windows have 4 n + 2 px a side", minimum=0, maximum=20)
    patch_stride: int = setting(
        4, unit="px", help="distance of the 8 x 8 px patches searched", minimum=1, maximum=8
    )
    descents: int = setting(6, help="iterations of a patch's search", minimum=1)
    refinements: int = setting(3, help="variational iterations on each scale", minimum=0)
    smoothness: float = setting(
        10.0, help="weight of smoothness in them: more is biased across depths", minimum=0.0
    )
    gradient: float = setting(20.0, help="weight of gradient constancy in them", minimum=0.0)
    noise_floor: float = setting(
        0.07, unit="px", help="standard deviation of the best flow", minimum=0.0
    )
    texture_noise: float = setting(
        0.1,
        unit="grey^2/px^2",
        help="texture at which the flow's deviation is 1 px; it grows as 1 / texture",
        minimum=0.0,
    )
    texture_threshold: float = setting(
        0.1, unit="grey^2/px^2", help="below it a pixel is flat", minimum=0.0
    )
    clear_texture: float = setting(
        1.0, unit="grey^2/px^2", help="above it a pixel is clear", minimum=0.0
    )
    clear: float = setting(
        0.1,
        help="share of clear pixels below which tracking searches as between keyframes",
        minimum=0.0,
        maximum=1.0,
    )
    consistency: float = setting(1.0, unit="px", help="largest forward-backward error", minimum=0.0)
    exposure_tolerance: float = setting(
        0.03, help="relative change of brightness that is not taken out of a pair", minimum=0.0
    )
