"""Camera paths: the Trajectory value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Poses of one camera over time."""

    times: np.ndarray  # [N] float64, as the source writes them (s; frame numbers for ICL-NUIM)
    poses: np.ndarray  # [N, 7] float64, SE(3) T_WC [tx ty tz qx qy qz qw], m up to scale
