"""Where a run stands: what it needs besides the map to go on as if it had never ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slam.frame import PairGuess
from slam.shutter import ReadoutCost


@dataclass(frozen=True, slots=True)
class FrontendStanding:
    """Where tracking stands."""

    keyframe: int  # number of the one tracked against
    velocity: Tensor  # [7] float64 SE(3): T_fk of a frame is this times that of the one before
    on_trial: bool  # whether the start may yet be discarded
    trials: int  # starts so far
    guess: PairGuess  # flow that the next image is sought with; none right after a keyframe


@dataclass(frozen=True, slots=True)
class BackendStanding:
    """Where the adjustment stands, as it was published last."""

    free_focal_at: int  # keyframes with which the focal length is freed next
    readout_at: float  # keyframes with which the readout time is estimated next; inf = never
    readout_cost: ReadoutCost  # what is known of the readout time
    focal_sigma: float  # of log focal; inf = not estimated
    last_cost: float  # mean robust cost of a measurement; nan = nothing was adjusted

    @classmethod
    def entering(cls, keyframes: int, focal_growth: float) -> BackendStanding:
        """Of a map that was finished: its readout time is known, its focal length nearly."""
        grown = int(np.ceil(keyframes * focal_growth))
        return cls(grown, float("inf"), ReadoutCost(), float("inf"), float("nan"))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a whole run stands between two images."""

    frame: int  # index of the last image taken, as Image.index
    linked: int  # keyframes that the backend knows
    frontend: FrontendStanding
    backend: BackendStanding
